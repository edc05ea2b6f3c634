#include "kernels/fused_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "base/errors.h"
#include "kernels/dispatch.h"

namespace ponte {
namespace {

constexpr double kDropout = 0;
constexpr bool kCausal = true;
constexpr int64_t kCudnnChoice = 3;  // sdp::SDPBackend::cudnn_attention

// What FlashAttention is told of the rows.
struct FlashRows {
  at::Tensor boundaries;        // int32, on the device: first token of each document of the flattened batch, and its end; undefined: equal rows
  int64_t longest_q, longest_k;
  std::optional<int64_t> left;  // keys before a query's own that it sees
};

FlashRows flash_rows(const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const KeyRanges& ranges) {
  FlashRows out{{}, q_BNTD.size(2), k_BGSD.size(2), {}};
  if (ranges.window) out.left = *ranges.window - 1;
  if (!ranges.document_starts_BT.defined()) return out;
  const int64_t B = q_BNTD.size(0), T = q_BNTD.size(2);
  const at::Tensor starts = ranges.document_starts_BT.contiguous();
  const int64_t* start = starts.const_data_ptr<int64_t>();
  std::vector<int32_t> boundaries;
  for (int64_t i = 0; i < B * T; ++i)
    if (start[i] == i % T) boundaries.push_back(static_cast<int32_t>(i));
  boundaries.push_back(static_cast<int32_t>(B * T));
  int32_t longest = 0;
  for (size_t i = 1; i < boundaries.size(); ++i) longest = std::max(longest, boundaries[i] - boundaries[i - 1]);
  out.longest_q = out.longest_k = longest;
  out.boundaries = at::tensor(boundaries, at::kInt).to(q_BNTD.device(), /*non_blocking=*/true);
  return out;
}

// [B, heads, T, D] as FlashAttention reads it: [B, T, heads, D], or with documents all rows one after another.
at::Tensor as_tokens(const at::Tensor& x_BNTD, const FlashRows& rows) {
  const at::Tensor x_BTND = x_BNTD.transpose(1, 2);
  return rows.boundaries.defined() ? x_BTND.flatten(0, 1) : x_BTND;
}
at::Tensor as_heads(const at::Tensor& x, const FlashRows& rows, int64_t B) {
  return (rows.boundaries.defined() ? x.unflatten(0, {B, -1}) : x).transpose(1, 2);
}

std::optional<at::Tensor> given(const at::Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }

}  // namespace

std::string_view name(FusedAttention kernel) {
  switch (kernel) {
    case FusedAttention::none: return "none";
    case FusedAttention::flash: return "flash";
    case FusedAttention::cudnn: return "cudnn";
  }
  PONTE_ASSERT(false);
}

FusedAttention fused_attention_for(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const KeyRanges& ranges, double scale) {
  const bool half = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  if (!has_card_path(q) || !half || !ranges.causal || q.size(3) > 256 || q.size(3) % 8 != 0 || k.stride(-1) != 1) return FusedAttention::none;
  const bool plain = !ranges.window && !ranges.document_starts_BT.defined() && q.size(2) == k.size(2) && q.size(2) > 1;
  constexpr bool kGrouped = true;
  if (plain && q.is_cuda() && at::_fused_sdp_choice(q, k, v, {}, kDropout, kCausal, scale, kGrouped) == kCudnnChoice) return FusedAttention::cudnn;
  return FusedAttention::flash;
}

AttentionResult flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const KeyRanges& ranges, double scale) {
  PONTE_ASSERT(ranges.causal);
  const FlashRows rows = flash_rows(q, k, ranges);
  const auto cut = given(rows.boundaries);
  constexpr bool kDebugMask = false;
  const auto result = at::_flash_attention_forward(as_tokens(q, rows), as_tokens(k, rows), as_tokens(v, rows), cut, cut, rows.longest_q, rows.longest_k,
                                                   kDropout, kCausal, kDebugMask, scale, rows.left, 0);
  at::Tensor log_sum = std::get<1>(result);  // [B, N, T], or [N, B T] with documents
  if (cut) log_sum = log_sum.unflatten(1, {q.size(0), q.size(2)}).transpose(0, 1);
  return {as_heads(std::get<0>(result), rows, q.size(0)).transpose(1, 2).contiguous(), log_sum.contiguous()};
}

AttentionGradients flash_attention_backward(const at::Tensor& dout_BTND, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                            const AttentionResult& forward, const KeyRanges& ranges, double scale) {
  const FlashRows rows = flash_rows(q, k, ranges);
  const auto tokens = [&](const at::Tensor& x_BTND) { return rows.boundaries.defined() ? x_BTND.flatten(0, 1) : x_BTND; };
  const at::Tensor log_sum = rows.boundaries.defined() ? forward.log_sum_BNT.transpose(0, 1).flatten(1, 2) : forward.log_sum_BNT;
  const at::Tensor no_random_state = at::zeros({2}, at::TensorOptions(q.device()).dtype(at::kLong));
  const auto [dq, dk, dv] = at::_flash_attention_backward(tokens(dout_BTND.contiguous()), as_tokens(q, rows), as_tokens(k, rows), as_tokens(v, rows),
                                                          tokens(forward.out_BTND), log_sum.contiguous(), rows.boundaries, rows.boundaries, rows.longest_q,
                                                          rows.longest_k, kDropout, kCausal, no_random_state, no_random_state, scale, rows.left, 0);
  const int64_t B = q.size(0);
  return {as_heads(dq, rows, B), as_heads(dk, rows, B), as_heads(dv, rows, B)};
}

AttentionResult cudnn_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  constexpr bool kLogSum = true, kDebugMask = false;
  const auto result = at::_scaled_dot_product_cudnn_attention(q, k, v, {}, kLogSum, kDropout, kCausal, kDebugMask, scale);
  return {std::get<0>(result).transpose(1, 2).contiguous(), std::get<1>(result).view({q.size(0), q.size(1), q.size(2)})};
}

AttentionGradients cudnn_attention_backward(const at::Tensor& dout_BTND, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                            const AttentionResult& forward, double scale) {
  const at::Tensor no_random_state = at::zeros({}, at::TensorOptions(q.device()).dtype(at::kLong));
  const auto [dq, dk, dv] = at::_scaled_dot_product_cudnn_attention_backward(
      dout_BTND.transpose(1, 2), q, k, v, forward.out_BTND.transpose(1, 2), forward.log_sum_BNT.unsqueeze(-1), no_random_state, no_random_state, {}, {}, {},
      q.size(2), k.size(2), kDropout, kCausal, scale);
  return {dq, dk, dv};
}

}  // namespace ponte
