// Units: parameters that are used together, a layer's or the embedding's. Where parameters or gradients are shared out over replicas, a keeper brings a
// unit's values before they are used, forward and again backward, and takes its gradients when its backward pass is complete (Rajbhandari et al. 2020,
// Zhao et al. 2023). Without a keeper everything is simply there.
#pragma once
#include <functional>
#include <vector>

#include "nn/recompute.h"

namespace ponte {

struct Parameter;
struct Unit;

// What comes after this use: the next unit's, the same stretch's backward pass, the previous unit's backward pass.
enum class UnitPass { forward, again, backward };

class UnitKeeper {
 public:
  virtual ~UnitKeeper() = default;
  // Parameter::value holds values from now on until another unit's are wanted.
  virtual void want_values(const Unit& unit, UnitPass pass) = 0;
  // Parameter::main_grad can be added to from now on until gradients_done.
  virtual void want_gradients(const Unit& unit) = 0;
  // A backward pass has added all it will add. Nothing happens where no gradients were wanted since the last call.
  virtual void gradients_done(const Unit& unit) = 0;
  virtual void zero_gradients(const Unit& unit) = 0;
  // The next backward pass of these units is the step's last: gradients that are done after it are complete.
  virtual void last_backward(const Unit& unit) = 0;
};

struct Unit {
  std::vector<Parameter*> parameters;
  UnitKeeper* keeper = nullptr;
  // Whose values are wanted next in the same direction; null: not known.
  const Unit* following = nullptr;
  const Unit* preceding = nullptr;
};

// Runs a stretch of layers that uses the unit's parameters and no other's.
at::Tensor run_in_unit(const Unit& unit, const Block& block, const at::Tensor& x);
at::Tensor run_in_unit(const Unit& unit, const std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>& block, const at::Tensor& a,
                       const at::Tensor& b);
// A look-up in the unit's parameters: its backward pass needs no values, and ends with the micro-batch's.
at::Tensor look_up_in_unit(const Unit& unit, const std::function<at::Tensor()>& look_up);

}  // namespace ponte
