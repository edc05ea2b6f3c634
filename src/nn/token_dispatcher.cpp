#include "nn/token_dispatcher.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/errors.h"
#include "layout/placement.h"

namespace ponte {

// What dispatch() leaves for combine().
struct Route {
  Permutation permutation;                          // of this rank's tokens (all_gather: of everybody's)
  int64_t tokens = 0;                               // brought by this rank
  std::vector<int64_t> sent, received;              // all-to-all: rows to and from each rank of the expert group
  std::vector<int64_t> shared;                      // rows each rank of the expert-tensor group received
  at::Tensor by_expert_P, by_source_P;              // order of rows by expert, and back
};

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

DispatchedTokens permuted(const at::Tensor& x_SH, const at::Tensor& weights_SK, Permutation permutation, Route& route) {
  DispatchedTokens out;
  route.permutation = std::move(permutation);
  out.x_PH = Gather::apply(x_SH, route.permutation.token_P, route.permutation.row_SK);
  out.weights_P = weights_SK.reshape({-1}).index_select(0, route.permutation.pair_P);
  out.rows = route.permutation.rows;
  return out;
}

class LocalDispatcher : public TokenDispatcher {
 public:
  DispatchedTokens dispatch(const at::Tensor& x_SH, const Routing& routing, int64_t experts) const override {
    auto route = std::make_shared<Route>();
    DispatchedTokens out = permuted(x_SH, routing.weights_SK, permutation_of(routing.experts_SK, experts), *route);
    out.route = std::move(route);
    return out;
  }
  at::Tensor combine(const at::Tensor& y_PH, const DispatchedTokens& tokens) const override {
    return Sum::apply(y_PH, tokens.route->permutation.token_P, tokens.route->permutation.row_SK);
  }
};

// What a rank brings. Where all tensor-parallel ranks hold all tokens, each brings a stretch of them, and results are summed over the ranks.
struct OwnTokens {
  TensorRegion tensor;

  bool replicated() const { return tensor.group->size() > 1 && tensor.residual == Residual::replicated; }
  at::Tensor entered(const at::Tensor& x) const { return replicated() ? tensor.enter(x) : x; }
  at::Tensor left(const at::Tensor& y) const { return replicated() ? tensor.leave(y) : y; }
  // The stretch of S tokens.
  Rows stretch(int64_t S) const {
    if (!replicated()) return {0, S};
    const int64_t ranks = tensor.group->size(), rank = tensor.group->rank();
    return {S * rank / ranks, S * (rank + 1) / ranks};
  }
  int64_t pairs(const at::Tensor& experts_SK) const { return stretch(experts_SK.size(0)).count() * experts_SK.size(1); }
  at::Tensor experts(const at::Tensor& experts_SK) const {
    if (!replicated()) return experts_SK;
    const Rows own = stretch(experts_SK.size(0));
    at::Tensor out = at::full_like(experts_SK, -1);
    out.narrow(0, own.begin, own.count()).copy_(experts_SK.narrow(0, own.begin, own.count()));
    return out;
  }
};

std::vector<int64_t> to_vector(const at::Tensor& t) {
  const at::Tensor flat = t.to(at::kCPU, at::kLong).contiguous();
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}

class AllToAllDispatcher : public TokenDispatcher {
 public:
  AllToAllDispatcher(const ExpertGroups& groups, const TensorRegion& tensor) : groups_(groups), own_{tensor} {}

  DispatchedTokens dispatch(const at::Tensor& x_SH, const Routing& routing, int64_t experts) const override {
    auto route = std::make_shared<Route>();
    // What travels is told in numbers.
    Permutation permutation = known_to_host(permutation_of(own_.experts(routing.experts_SK), experts), own_.pairs(routing.experts_SK));
    DispatchedTokens out = permuted(own_.entered(x_SH), own_.entered(routing.weights_SK), std::move(permutation), *route);
    route->tokens = x_SH.size(0);
    const at::Tensor counts_TRE = received_counts(out.rows.first, experts, *route);
    arrange(counts_TRE, out.rows.first, *route);
    const auto travel = [&](const at::Tensor& rows) {
      const at::Tensor arrived = all_to_all(rows, groups_.expert, route->sent, route->received);
      return all_gather_rows(arrived, groups_.expert_tensor, route->shared).index_select(0, route->by_expert_P);
    };
    out.x_PH = travel(out.x_PH);
    out.weights_P = travel(out.weights_P);
    if (!x_SH.device().is_cpu()) {
      const std::vector<int64_t> ends(out.rows.first.begin() + 1, out.rows.first.end());
      out.rows.ends_E = at::tensor(ends, at::kInt).to(x_SH.device(), /*non_blocking=*/true);
    }
    out.route = std::move(route);
    return out;
  }

  at::Tensor combine(const at::Tensor& y_PH, const DispatchedTokens& tokens) const override {
    const Route& route = *tokens.route;
    const at::Tensor whole = reduce_scatter_sum_rows(y_PH.index_select(0, route.by_source_P), groups_.expert_tensor, route.shared);
    const at::Tensor returned = all_to_all(whole, groups_.expert, route.received, route.sent);
    return own_.left(Sum::apply(returned, route.permutation.token_P, route.permutation.row_SK));
  }

 private:
  // Rows for this rank's experts: [expert-tensor rank that received them, rank of the expert group they come from, local expert].
  at::Tensor received_counts(const std::vector<int64_t>& first, int64_t experts, Route& route) const {
    const int64_t R = groups_.expert->size(), local = experts / R;
    at::Tensor counts_E = at::empty({1, experts}, at::kLong);
    for (int64_t e = 0; e < experts; ++e) counts_E.mutable_data_ptr<int64_t>()[e] = first[e + 1] - first[e];
    const at::Tensor all_RE = groups_.expert->all_gather(counts_E);
    route.sent = to_vector(counts_E.view({R, local}).sum(1));
    const at::Tensor mine_RE = all_RE.narrow(1, groups_.expert->rank() * local, local).contiguous();
    route.received = to_vector(mine_RE.sum(1));
    const at::Tensor counts_TRE = groups_.expert_tensor->all_gather(mine_RE.unsqueeze(0).contiguous());
    route.shared = to_vector(counts_TRE.sum({1, 2}));
    return counts_TRE;
  }
  // Rows arrive by source and, within a source, by expert; experts want them together.
  static void arrange(const at::Tensor& counts_TRE, std::vector<int64_t>& first, Route& route) {
    const int64_t local = counts_TRE.size(2);
    const std::vector<int64_t> counts = to_vector(counts_TRE);
    std::vector<int64_t> starts = {0};
    for (const int64_t n : counts) starts.push_back(starts.back() + n);
    at::Tensor order = at::empty({starts.back()}, at::kLong), back = at::empty_like(order);
    first.assign(1, 0);
    int64_t row = 0;
    for (int64_t e = 0; e < local; ++e) {
      for (size_t i = static_cast<size_t>(e); i < counts.size(); i += static_cast<size_t>(local))
        for (int64_t from = starts[i]; from < starts[i + 1]; ++from, ++row) {
          order.mutable_data_ptr<int64_t>()[row] = from;
          back.mutable_data_ptr<int64_t>()[from] = row;
        }
      first.push_back(row);
    }
    route.by_expert_P = order.to(route.permutation.token_P.device(), /*non_blocking=*/true);
    route.by_source_P = back.to(route.permutation.token_P.device(), /*non_blocking=*/true);
  }

  ExpertGroups groups_;
  OwnTokens own_;
};

class AllGatherDispatcher : public TokenDispatcher {
 public:
  AllGatherDispatcher(const ExpertGroups& groups, const TensorRegion& tensor) : groups_(groups), own_{tensor} {}

  DispatchedTokens dispatch(const at::Tensor& x_SH, const Routing& routing, int64_t experts) const override {
    auto route = std::make_shared<Route>();
    const std::shared_ptr<Group>& all = groups_.expert_tensor_expert;
    route->tokens = x_SH.size(0);
    route->shared = to_vector(all->all_gather(at::full({1}, route->tokens, at::kLong)));
    const int64_t local = experts / groups_.expert->size(), begin = groups_.expert->rank() * local;
    at::Tensor experts_SK = all->all_gather_rows(own_.experts(routing.experts_SK).contiguous(), route->shared) - begin;
    experts_SK = experts_SK.masked_fill(at::logical_or(experts_SK < 0, experts_SK >= local), -1);
    const at::Tensor x = all_gather_rows(own_.entered(x_SH), all, route->shared);
    const at::Tensor weights = all_gather_rows(own_.entered(routing.weights_SK), all, route->shared);
    const int64_t expected = own_.pairs(routing.experts_SK) * all->size() * local / experts;
    // Most pairs are other ranks': rows for them all would cost more than the host's waiting for their number.
    DispatchedTokens out = permuted(x, weights, known_to_host(permutation_of(experts_SK, local), expected), *route);
    out.route = std::move(route);
    return out;
  }

  at::Tensor combine(const at::Tensor& y_PH, const DispatchedTokens& tokens) const override {
    const Route& route = *tokens.route;
    const at::Tensor sums = Sum::apply(y_PH, route.permutation.token_P, route.permutation.row_SK);
    return own_.left(reduce_scatter_sum_rows(sums, groups_.expert_tensor_expert, route.shared));
  }

 private:
  ExpertGroups groups_;
  OwnTokens own_;
};

}  // namespace

std::shared_ptr<const TokenDispatcher> local_dispatcher() {
  static const auto dispatcher = std::make_shared<const LocalDispatcher>();
  return dispatcher;
}

std::shared_ptr<const TokenDispatcher> token_dispatcher(const ModelConfig& config, const ExpertGroups& groups, const TensorRegion& tensor) {
  require(config.num_moe_experts % groups.expert->size() == 0, "model: {} experts do not divide over {} expert-parallel ranks", config.num_moe_experts,
          groups.expert->size());
  if (groups.expert_tensor_expert->size() == 1 && (tensor.group->size() == 1 || tensor.residual == Residual::token_sharded)) return local_dispatcher();
  if (config.moe_token_dispatcher_type == "allgather") return std::make_shared<const AllGatherDispatcher>(groups, tensor);
  return std::make_shared<const AllToAllDispatcher>(groups, tensor);
}

}  // namespace ponte
