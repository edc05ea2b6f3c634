#include "nn/attention_core.h"

#include <ATen/ATen.h>

#include "base/errors.h"
#include "layout/context_split.h"

namespace ponte {
namespace {

class LocalAttention final : public AttentionCore {
 public:
  std::shared_ptr<Group> context() const override { return single_group(); }
  AttentionResult forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const TokenView& tokens, double scale) const override {
    return attention(q, k, v, causal_ranges(tokens.B, tokens.T, 0, tokens.window, tokens.document_starts_BT), scale);
  }
  AttentionGradients backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionResult& result,
                              const TokenView& tokens, double scale) const override {
    return attention_backward(dout, q, k, v, result, causal_ranges(tokens.B, tokens.T, 0, tokens.window, tokens.document_starts_BT), scale);
  }
};

at::Tensor places(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

// What queries at these places of the row see of keys at those (both ascending): ranges of the keys' order. Where a query sees none, the range holds
// one key and `blind_BT` says so.
struct BlockRanges {
  KeyRanges ranges;
  at::Tensor blind_BT;  // undefined: every query sees a key
};
BlockRanges block_ranges(const at::Tensor& query_T, const at::Tensor& key_S, const TokenView& tokens) {
  at::Tensor earliest_BT = tokens.document_starts_BT.defined() ? tokens.document_starts_BT.to(at::kCPU) : at::zeros({tokens.B, tokens.T}, at::kLong);
  const at::Tensor query_BT = query_T.unsqueeze(0).expand({tokens.B, tokens.T}).contiguous();
  if (tokens.window) earliest_BT = at::maximum(earliest_BT, query_BT - (*tokens.window - 1));
  at::Tensor first = at::searchsorted(key_S, earliest_BT.contiguous()), last = at::searchsorted(key_S, query_BT, /*out_int32=*/false, /*right=*/true);
  const at::Tensor blind = at::ge(first, last);
  if (!blind.any().item<bool>()) return {{first, last}, {}};
  first = at::clamp_max(first, key_S.size(0) - 1);
  last = at::maximum(last, first + 1);
  return {{first, last}, blind};
}

// Common to the ways of spreading rows: who has which places.
class SpreadAttention : public AttentionCore {
 public:
  explicit SpreadAttention(std::shared_ptr<Group> group) : group_(std::move(group)) {}
  std::shared_ptr<Group> context() const override { return group_; }

 protected:
  int64_t row_tokens(const TokenView& tokens) const { return tokens.T * group_->size(); }
  at::Tensor places_of(const TokenView& tokens, int64_t rank) const { return places(context_tokens(row_tokens(tokens), rank, group_->size())); }
  // Ascending places out of rank-after-rank order, and back.
  at::Tensor ascending(const TokenView& tokens) const { return places(context_order(row_tokens(tokens), group_->size())).argsort(); }
  at::Tensor by_rank(const TokenView& tokens) const { return places(context_order(row_tokens(tokens), group_->size())); }
  std::shared_ptr<Group> group_;
};

class RingAttention final : public SpreadAttention {
 public:
  using SpreadAttention::SpreadAttention;

  AttentionResult forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const TokenView& tokens, double scale) const override {
    const at::ScalarType wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor own = places_of(tokens, group_->rank());
    at::Tensor out_BTND, log_sum_BNT, block = at::stack({k, v}).contiguous();
    for (int64_t step = 0; step < group_->size(); ++step) {
      at::Tensor next;
      const auto pending = step + 1 < group_->size() ? pass_on(block, next) : nullptr;
      const BlockRanges seen = block_ranges(own, places_of(tokens, source(step)), tokens);
      const AttentionResult part = attention(q, block[0], block[1], seen.ranges, scale);
      at::Tensor log_sum = part.log_sum_BNT;
      if (seen.blind_BT.defined()) log_sum = log_sum.masked_fill(seen.blind_BT.unsqueeze(1), -INFINITY);
      merge(out_BTND, log_sum_BNT, part.out_BTND.to(wide), log_sum);
      if (pending) pending->wait();
      block = next;
    }
    return {out_BTND.to(q.scalar_type()).contiguous(), log_sum_BNT.contiguous()};
  }

  // Keys and values go around once more; the gradients of a block travel with it, one step behind, and reach its owner after the last step.
  AttentionGradients backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionResult& result,
                              const TokenView& tokens, double scale) const override {
    const at::Tensor own = places_of(tokens, group_->rank());
    at::Tensor dq, block = at::stack({k, v}).contiguous(), gradients;
    for (int64_t step = 0; step < group_->size(); ++step) {
      at::Tensor next;
      const auto pending = step + 1 < group_->size() ? pass_on(block, next) : nullptr;
      const BlockRanges seen = block_ranges(own, places_of(tokens, source(step)), tokens);
      // With so large a denominator a query that sees nothing of this block has no part in it.
      const at::Tensor log_sum = seen.blind_BT.defined() ? result.log_sum_BNT.masked_fill(seen.blind_BT.unsqueeze(1), 1e30) : result.log_sum_BNT;
      const AttentionGradients part = attention_backward(dout, q, block[0], block[1], {result.out_BTND, log_sum}, seen.ranges, scale);
      dq = dq.defined() ? dq.add_(part.dq_BNTD) : part.dq_BNTD;
      const at::Tensor mine = at::stack({part.dk_BGSD, part.dv_BGSD});
      gradients = gradients.defined() ? gradients.add_(mine) : mine;
      at::Tensor received;
      pass_on(gradients.contiguous(), received)->wait();
      gradients = received;
      if (pending) pending->wait();
      block = next;
    }
    return {dq, gradients[0], gradients[1]};
  }

 private:
  int64_t source(int64_t step) const { return (group_->rank() - step + group_->size()) % group_->size(); }
  std::unique_ptr<PendingTransfers> pass_on(const at::Tensor& block, at::Tensor& next) const {
    const int64_t size = group_->size(), to = (group_->rank() + 1) % size, from = (group_->rank() + size - 1) % size;
    next = at::empty_like(block);
    return group_->transfer(std::vector<Transfer>{{Transfer::Direction::send, to, block}, {Transfer::Direction::receive, from, next}});
  }
  // Softmax over two sets of keys out of the softmax over each.
  static void merge(at::Tensor& out_BTND, at::Tensor& log_sum_BNT, const at::Tensor& part_BTND, const at::Tensor& part_log_sum_BNT) {
    if (!out_BTND.defined()) {
      out_BTND = part_BTND;
      log_sum_BNT = part_log_sum_BNT;
      return;
    }
    const at::Tensor both = at::logaddexp(log_sum_BNT, part_log_sum_BNT);
    const auto share = [&](const at::Tensor& log_sum) { return at::exp(log_sum - both).masked_fill(log_sum.isinf(), 0).transpose(1, 2).unsqueeze(-1); };
    out_BTND = out_BTND * share(log_sum_BNT) + part_BTND * share(part_log_sum_BNT);
    log_sum_BNT = both;
  }
};

class GatheredAttention final : public SpreadAttention {
 public:
  using SpreadAttention::SpreadAttention;

  AttentionResult forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const TokenView& tokens, double scale) const override {
    return attention(q, gathered(k, tokens), gathered(v, tokens), ranges(tokens), scale);
  }
  AttentionGradients backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionResult& result,
                              const TokenView& tokens, double scale) const override {
    const AttentionGradients d = attention_backward(dout, q, gathered(k, tokens), gathered(v, tokens), result, ranges(tokens), scale);
    return {d.dq_BNTD, scattered(d.dk_BGSD, tokens), scattered(d.dv_BGSD, tokens)};
  }

 private:
  KeyRanges ranges(const TokenView& tokens) const {
    return block_ranges(places_of(tokens, group_->rank()), at::arange(row_tokens(tokens), at::kLong), tokens).ranges;
  }
  at::Tensor gathered(const at::Tensor& x_BGTD, const TokenView& tokens) const {
    const at::Tensor all_SBGD = group_->all_gather(x_BGTD.permute({2, 0, 1, 3}).contiguous());
    return all_SBGD.index_select(0, ascending(tokens).to(x_BGTD.device())).permute({1, 2, 0, 3}).contiguous();
  }
  at::Tensor scattered(const at::Tensor& dx_BGSD, const TokenView& tokens) const {
    const at::Tensor dx_SBGD = dx_BGSD.permute({2, 0, 1, 3}).index_select(0, by_rank(tokens).to(dx_BGSD.device())).contiguous();
    return group_->reduce_scatter_sum(dx_SBGD).permute({1, 2, 0, 3}).contiguous();
  }
};

// Tokens for heads among neighbours on the context axis, and attention of those heads by another core: the local one where the neighbours are all ranks, else
// a ring of those with the same heads (Fang and Zhao 2024, USP). Neighbours together hold what one of fewer context ranks would hold, and
// each its chunks of it.
class ExchangedAttention final : public SpreadAttention {
 public:
  ExchangedAttention(std::shared_ptr<Group> context, std::shared_ptr<Group> neighbours, std::shared_ptr<const AttentionCore> core)
      : SpreadAttention(std::move(context)), neighbours_(std::move(neighbours)), core_(std::move(core)) {}

  AttentionResult forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const TokenView& tokens, double scale) const override {
    const Exchange x = exchange(tokens);
    const AttentionResult together = core_->forward(to_heads(q, x), to_heads(k, x), to_heads(v, x), x.tokens, scale);
    const at::Tensor out = to_tokens(together.out_BTND.transpose(1, 2), x).transpose(1, 2).contiguous();
    return {out, to_tokens(together.log_sum_BNT.unsqueeze(-1), x).squeeze(-1).contiguous()};
  }
  AttentionGradients backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionResult& result,
                              const TokenView& tokens, double scale) const override {
    const Exchange x = exchange(tokens);
    const AttentionResult together = {to_heads(result.out_BTND.transpose(1, 2), x).transpose(1, 2).contiguous(),
                                      to_heads(result.log_sum_BNT.unsqueeze(-1), x).squeeze(-1).contiguous()};
    const AttentionGradients d = core_->backward(to_heads(dout.transpose(1, 2), x).transpose(1, 2).contiguous(), to_heads(q, x), to_heads(k, x),
                                                 to_heads(v, x), together, x.tokens, scale);
    return {to_tokens(d.dq_BNTD, x), to_tokens(d.dk_BGSD, x), to_tokens(d.dv_BGSD, x)};
  }

 private:
  // S: the neighbours' tokens.
  struct Exchange {
    int64_t own = 0;                    // tokens of a row on this rank
    TokenView tokens;                   // of all neighbours, ascending
    at::Tensor ascending_S, by_rank_S;  // out of rank-after-rank order, and back
  };
  Exchange exchange(const TokenView& tokens) const {
    const int64_t S = tokens.T * neighbours_->size();
    Exchange out{.own = tokens.T, .tokens = {tokens.B, S, {}, tokens.window}, .ascending_S = {}, .by_rank_S = places(context_order(S, neighbours_->size()))};
    out.ascending_S = out.by_rank_S.argsort();
    if (tokens.document_starts_BT.defined()) {  // every neighbour's documents
      const at::Tensor all_SB = neighbours_->all_gather(tokens.document_starts_BT.to(at::kCPU).t().contiguous());
      out.tokens.document_starts_BT = all_SB.index_select(0, out.ascending_S).t().contiguous();
    }
    return out;
  }
  // [B, heads, this rank's tokens, D] <-> [B, this rank's heads, the neighbours' tokens, D].
  at::Tensor to_heads(const at::Tensor& x_BNTD, const Exchange& exchange) const {
    const int64_t N = x_BNTD.size(1), ranks = neighbours_->size();
    require(N % ranks == 0,
            "model.cp_comm_type=a2a: {} heads of a rank do not divide over {} context-parallel ranks; p2p and all_gather do not need that", N, ranks);
    const std::vector<int64_t> rows(static_cast<size_t>(ranks), N / ranks);
    const at::Tensor x = neighbours_->all_to_all(x_BNTD.transpose(0, 1).contiguous(), rows, rows).unflatten(0, {ranks, N / ranks});  // [rank, heads, B, T, D]
    return x.permute({2, 1, 0, 3, 4}).flatten(2, 3).index_select(2, exchange.ascending_S.to(x.device(), /*non_blocking=*/true)).contiguous();
  }
  at::Tensor to_tokens(const at::Tensor& x_BNSD, const Exchange& exchange) const {
    const int64_t n = x_BNSD.size(1), ranks = neighbours_->size();
    const std::vector<int64_t> rows(static_cast<size_t>(ranks), n);
    const at::Tensor order = exchange.by_rank_S.to(x_BNSD.device(), /*non_blocking=*/true);
    const at::Tensor x = x_BNSD.index_select(2, order).unflatten(2, {ranks, exchange.own});  // [B, heads, rank, T, D]
    return neighbours_->all_to_all(x.permute({2, 1, 0, 3, 4}).flatten(0, 1).contiguous(), rows, rows).transpose(0, 1).contiguous();
  }
  std::shared_ptr<Group> neighbours_;
  std::shared_ptr<const AttentionCore> core_;
};

}  // namespace

std::shared_ptr<const AttentionCore> local_attention() {
  static const auto core = std::make_shared<const LocalAttention>();
  return core;
}

std::shared_ptr<const AttentionCore> attention_core(const std::string& type, const Groups& groups) {
  const std::shared_ptr<Group>& context = groups.context;
  if (context->size() == 1) return local_attention();
  if (type == "p2p" || type.empty()) return std::make_shared<const RingAttention>(context);
  if (type == "all_gather") return std::make_shared<const GatheredAttention>(context);
  if (type == "a2a") return std::make_shared<const ExchangedAttention>(context, context, local_attention());
  if (type == "a2a+p2p") {
    const std::shared_ptr<Group>& ring = groups.context_outer;
    return std::make_shared<const ExchangedAttention>(context, groups.context_inner,
                                                      ring->size() == 1 ? local_attention() : std::make_shared<const RingAttention>(ring));
  }
  fail("model.cp_comm_type: '{}' is not supported; supported: p2p, all_gather, a2a, a2a+p2p", type);
}

}  // namespace ponte
