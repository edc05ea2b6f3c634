// Nodes of the autograd graph around a unit that compute nothing: the first to run backward wants values and gradients, the last says that all is done.
#include "nn/unit.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Needs : int64_t { gradients, values_and_gradients };

const Unit& unit_of(AutogradContext* context) { return *reinterpret_cast<const Unit*>(context->saved_data["unit"].toInt()); }

// Backward, before everything of the unit.
struct Opening : torch::autograd::Function<Opening> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, const Unit* unit, Needs needs) {
    context->saved_data["unit"] = reinterpret_cast<int64_t>(unit);
    context->saved_data["needs"] = static_cast<int64_t>(needs);
    return y.view_as(y);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const Unit& unit = unit_of(context);
    if (context->saved_data["needs"].toInt() == static_cast<int64_t>(Needs::values_and_gradients)) unit.keeper->want_values(unit, UnitPass::backward);
    unit.keeper->want_gradients(unit);
    return {dy[0], at::Tensor(), at::Tensor()};
  }
};

// Backward, after everything of the unit: all of it lies between the inputs and the output.
struct Closing : torch::autograd::Function<Closing> {
  static variable_list forward(AutogradContext* context, at::TensorList inputs, const Unit* unit) {
    context->saved_data["unit"] = reinterpret_cast<int64_t>(unit);
    variable_list out;
    for (const at::Tensor& x : inputs) out.push_back(x.view_as(x));
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Unit& unit = unit_of(context);
    unit.keeper->gradients_done(unit);
    gradients.emplace_back();
    return gradients;
  }
};

void want_for_forward(const Unit& unit) {
  const bool inside_backward = torch::autograd::get_current_graph_task_id() != -1;
  unit.keeper->want_values(unit, inside_backward ? UnitPass::again : UnitPass::forward);
}

at::Tensor opened(const at::Tensor& y, const Unit& unit, Needs needs) {
  return at::GradMode::is_enabled() && y.requires_grad() ? Opening::apply(y, &unit, needs) : y;
}

}  // namespace

at::Tensor run_in_unit(const Unit& unit, const Block& block, const at::Tensor& x) {
  if (!unit.keeper) return block(x);
  want_for_forward(unit);
  const bool closes = at::GradMode::is_enabled() && x.requires_grad();
  return opened(block(closes ? Closing::apply(at::TensorList(x), &unit)[0] : x), unit, Needs::values_and_gradients);
}

at::Tensor run_in_unit(const Unit& unit, const std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>& block, const at::Tensor& a,
                       const at::Tensor& b) {
  if (!unit.keeper) return block(a, b);
  want_for_forward(unit);
  if (!at::GradMode::is_enabled() || !a.requires_grad() || !b.requires_grad()) return opened(block(a, b), unit, Needs::values_and_gradients);
  const variable_list given{a, b}, inputs = Closing::apply(at::TensorList(given), &unit);
  return opened(block(inputs[0], inputs[1]), unit, Needs::values_and_gradients);
}

at::Tensor look_up_in_unit(const Unit& unit, const std::function<at::Tensor()>& look_up) {
  if (!unit.keeper) return look_up();
  want_for_forward(unit);
  return opened(look_up(), unit, Needs::gradients);
}

}  // namespace ponte
