#include "nn/recompute.h"

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct HeldBlock : torch::CustomClassHolder {
  explicit HeldBlock(Block b) : block(std::move(b)) {}
  Block block;
};

struct RecomputeFunction : torch::autograd::Function<RecomputeFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Block& block) {
    context->save_for_backward({x});
    context->saved_data["block"] = c10::IValue::make_capsule(c10::make_intrusive<HeldBlock>(block));
    return block(x);  // autograd is off inside a Function's forward
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto held = context->saved_data["block"].toCapsule();
    at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_(true);
    at::AutoGradMode on(true);
    const at::Tensor y = static_cast<HeldBlock&>(*held).block(x);
    torch::autograd::backward({y}, {dy[0]});
    return {x.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor run_with_recompute(const Block& block, const at::Tensor& x) {
  return at::GradMode::is_enabled() ? RecomputeFunction::apply(x, block) : block(x);
}

}  // namespace ponte
