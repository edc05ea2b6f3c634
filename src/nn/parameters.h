// Builds a network's parameters from its rule table: names, shapes, shards and decay classes come from there, so a layer asks for a parameter by name
// and never works out a shape.
#pragma once
#include <c10/core/TensorOptions.h>

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "nn/parameter.h"

namespace ponte {

// How one rank cuts parameters: experts are cut over their own tensor-parallel ranks.
struct Shards {
  TensorParallel tensor, expert_tensor;
};

class Parameters {
 public:
  // `table` must outlive this. options: device and type of the values; rules that say fp32 stay fp32.
  Parameters(const RuleTable& table, const Shards& shards, const c10::TensorOptions& options);

  // The parameter of this live name, allocated (zeros) on first use. UserError when the table has no such rule.
  Parameter& get(const std::string& name);
  // nullptr when the table has no such rule.
  Parameter* get_if_present(const std::string& name);
  // Every rule's parameter has been asked for, but for those that are elsewhere (other stages, other ranks' experts); InternalError naming one that was not.
  void check_complete(const std::function<bool(const Rule&)>& elsewhere) const;

  std::deque<Parameter>& all() { return parameters_; }

 private:
  const RuleTable& table_;
  Shards shards_;
  c10::TensorOptions options_;
  std::unordered_map<std::string, const Rule*> rules_;
  std::unordered_map<std::string, Parameter*> made_;
  std::deque<Parameter> parameters_;  // in the order of creation; addresses stay valid
};

// Where a gradient goes. InternalError when the model's gradients have not been allocated.
at::Tensor& gradient_of(Parameter& parameter);

}  // namespace ponte
