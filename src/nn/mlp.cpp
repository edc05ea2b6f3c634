#include "nn/mlp.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/swiglu.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SwiGluFunction : torch::autograd::Function<SwiGluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up_SF2) {
    context->save_for_backward({gate_up_SF2});
    return swiglu(gate_up_SF2);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) { return {swiglu_backward(dy[0], context->get_saved_variables()[0])}; }
};

}  // namespace

at::Tensor GatedMlp::operator()(const at::Tensor& x_SH) const { return region.leave(linear_fc2(SwiGluFunction::apply(linear_fc1(region.enter(x_SH))))); }

}  // namespace ponte
