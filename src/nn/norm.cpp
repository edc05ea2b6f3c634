#include "nn/norm.h"

#include <torch/csrc/autograd/custom_function.h>

#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_SH, const at::Tensor& weight_H, const RmsNorm* norm) {
    auto result = rms_norm(x_SH, weight_H, norm->options);
    context->save_for_backward({x_SH, weight_H, result.rstd_S});
    context->saved_data["weight"] = reinterpret_cast<int64_t>(norm->weight);
    context->saved_data["epsilon"] = norm->options.epsilon;
    context->saved_data["offset"] = norm->options.offset;
    return result.y_SH;
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto saved = context->get_saved_variables();
    auto* weight = reinterpret_cast<Parameter*>(context->saved_data["weight"].toInt());
    at::Tensor gradient_H = weight->value.requires_grad() ? gradient_of(*weight) : at::Tensor();
    const NormOptions options{context->saved_data["epsilon"].toDouble(), context->saved_data["offset"].toDouble()};
    return {rms_norm_backward(dy[0], saved[0], saved[1], saved[2], options, gradient_H), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor RmsNorm::operator()(const at::Tensor& x_SH) const { return RmsNormFunction::apply(x_SH, weight->value, this); }

}  // namespace ponte
