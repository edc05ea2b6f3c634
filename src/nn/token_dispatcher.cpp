#include "nn/token_dispatcher.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The two movements, each with the other as its backward.
struct Gather : torch::autograd::Function<Gather> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_SH, const at::Tensor& token_P, const at::Tensor& row_SK) {
    context->save_for_backward({row_SK});
    return gather_tokens(x_SH, token_P);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    return {sum_rows(dy[0], context->get_saved_variables()[0]), at::Tensor(), at::Tensor()};
  }
};

struct Sum : torch::autograd::Function<Sum> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_PH, const at::Tensor& token_P, const at::Tensor& row_SK) {
    context->save_for_backward({token_P});
    return sum_rows(x_PH, row_SK);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    return {gather_tokens(dy[0], context->get_saved_variables()[0]), at::Tensor(), at::Tensor()};
  }
};

class LocalDispatcher : public TokenDispatcher {
 public:
  DispatchedTokens dispatch(const at::Tensor& x_SH, const Routing& routing, int64_t experts) const override {
    DispatchedTokens out;
    out.permutation = permutation_of(routing.experts_SK, experts);
    out.x_PH = Gather::apply(x_SH, out.permutation.token_P, out.permutation.row_SK);
    out.weights_P = routing.weights_SK.reshape({-1}).index_select(0, out.permutation.pair_P);
    return out;
  }
  at::Tensor combine(const at::Tensor& y_PH, const DispatchedTokens& tokens) const override {
    return Sum::apply(y_PH, tokens.permutation.token_P, tokens.permutation.row_SK);
  }
};

}  // namespace

std::shared_ptr<const TokenDispatcher> local_dispatcher() {
  static const auto dispatcher = std::make_shared<const LocalDispatcher>();
  return dispatcher;
}

}  // namespace ponte
