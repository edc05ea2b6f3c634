#include "nn/linear.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/gemm.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_SI, const at::Tensor& weight_OI, const Linear* linear) {
    context->save_for_backward({x_SI, weight_OI});
    context->saved_data["weight"] = reinterpret_cast<int64_t>(linear->weight);
    context->saved_data["bias"] = reinterpret_cast<int64_t>(linear->bias);
    at::Tensor y_SO = times_transposed(x_SI, weight_OI);
    if (linear->bias) y_SO.add_(linear->bias->value);
    return y_SO;
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto saved = context->get_saved_variables();
    auto* weight = reinterpret_cast<Parameter*>(context->saved_data["weight"].toInt());
    auto* bias = reinterpret_cast<Parameter*>(context->saved_data["bias"].toInt());
    const at::Tensor dy_SO = dy[0].contiguous();
    if (weight->value.requires_grad()) add_transposed_product(gradient_of(*weight), dy_SO, saved[0]);
    if (bias && bias->value.requires_grad()) gradient_of(*bias).add_(dy_SO.sum(0, false, bias->main_grad.scalar_type()));
    return {context->needs_input_grad(0) ? times(dy_SO, saved[1]) : at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor Linear::operator()(const at::Tensor& x_SI) const { return LinearFunction::apply(x_SI, weight->value, this); }

}  // namespace ponte
