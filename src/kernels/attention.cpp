#include "kernels/attention.h"

#include <vector>

#include "kernels/dispatch.h"
#include "kernels/fused_attention.h"
#include "kernels/tile_product.h"
#include "kernels/vector_tables.h"

namespace ponte {
namespace {

bool vector_path(const at::Tensor& q, const at::Tensor& k) { return has_vector_path(q) && k.stride(-1) == 1 && k.stride(-2) == k.size(-1); }

template <class T>
AttentionRow<T> row_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const KeyRanges& ranges, double scale, int64_t b) {
  const int64_t* first = ranges.first_BT.const_data_ptr<int64_t>() + b * q.size(2);
  const int64_t* last = ranges.last_BT.const_data_ptr<int64_t>() + b * q.size(2);
  return {pointer<T>(q) + b * q.stride(0), pointer<T>(k) + b * k.stride(0), pointer<T>(v) + b * v.stride(0), q.stride(1), k.stride(1),
          q.size(2), k.size(2), q.size(1), k.size(1), q.size(3), first, last, static_cast<float>(scale)};
}

// 0 where a query sees a key, minus infinity elsewhere: [B, 1, T, S].
at::Tensor additive_mask(const KeyRanges& ranges, const at::Tensor& q, int64_t S) {
  const auto moved = [&](const at::Tensor& t_BT) { return t_BT.to(q.device(), /*non_blocking=*/true).unsqueeze(-1); };
  const at::Tensor key = at::arange(S, at::TensorOptions(q.device()).dtype(at::kLong));
  const at::Tensor hidden = at::logical_or(key < moved(ranges.first_BT), key >= moved(ranges.last_BT)).unsqueeze(1);
  return at::zeros(hidden.sizes(), at::TensorOptions(q.device()).dtype(accumulation_type(q))).masked_fill(hidden, -INFINITY);
}

}  // namespace

KeyRanges causal_ranges(int64_t B, int64_t T, int64_t past, std::optional<int64_t> window, const at::Tensor& document_starts_BT) {
  const at::Tensor last = (at::arange(T, at::kLong) + (past + 1)).unsqueeze(0).expand({B, T}).contiguous();
  at::Tensor first = at::zeros({B, T}, at::kLong);
  if (document_starts_BT.defined()) first = document_starts_BT.to(at::kCPU).clone();
  if (window) first = at::maximum(first, last - *window);
  const at::Tensor starts = document_starts_BT.defined() ? document_starts_BT.to(at::kCPU) : document_starts_BT;
  return {first.contiguous(), last, /*causal=*/true, window, starts};
}

AttentionResult attention_reference(const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD, const KeyRanges& ranges, double scale) {
  const auto wide = accumulation_type(q_BNTD);
  const int64_t repeat = q_BNTD.size(1) / k_BGSD.size(1);
  const at::Tensor k = k_BGSD.to(wide).repeat_interleave(repeat, 1), v = v_BGSD.to(wide).repeat_interleave(repeat, 1);
  const at::Tensor scores = at::matmul(q_BNTD.to(wide), k.transpose(2, 3)) * scale + additive_mask(ranges, q_BNTD, k.size(2));
  const at::Tensor log_sum = at::logsumexp(scores, -1);
  const at::Tensor out = at::matmul(at::exp(scores - log_sum.unsqueeze(-1)), v);
  return {out.transpose(1, 2).contiguous().to(q_BNTD.scalar_type()), log_sum};
}

AttentionGradients attention_backward_reference(const at::Tensor& dout_BTND, const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD,
                                                const AttentionResult& forward, const KeyRanges& ranges, double scale) {
  const auto wide = accumulation_type(q_BNTD);
  const int64_t G = k_BGSD.size(1), repeat = q_BNTD.size(1) / G;
  const at::Tensor q = q_BNTD.to(wide), k = k_BGSD.to(wide).repeat_interleave(repeat, 1), v = v_BGSD.to(wide).repeat_interleave(repeat, 1);
  const at::Tensor dout = dout_BTND.transpose(1, 2).to(wide), out = forward.out_BTND.transpose(1, 2).to(wide);
  const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) * scale + additive_mask(ranges, q_BNTD, k.size(2));
  const at::Tensor p = at::exp(scores - forward.log_sum_BNT.unsqueeze(-1));
  const at::Tensor ds = p * (at::matmul(dout, v.transpose(2, 3)) - (dout * out).sum(-1, true)) * scale;
  const auto per_group = [&](const at::Tensor& t) { return t.unflatten(1, {G, repeat}).sum(2).to(q_BNTD.scalar_type()); };
  return {at::matmul(ds, k).to(q_BNTD.scalar_type()), per_group(at::matmul(ds.transpose(2, 3), q)), per_group(at::matmul(p.transpose(2, 3), dout))};
}

AttentionResult attention(const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD, const KeyRanges& ranges, double scale) {
  if (!vector_path(q_BNTD, k_BGSD)) {
    switch (fused_attention_for(q_BNTD, k_BGSD, v_BGSD, ranges, scale)) {
      case FusedAttention::flash: return flash_attention(q_BNTD, k_BGSD, v_BGSD, ranges, scale);
      case FusedAttention::cudnn: return cudnn_attention(q_BNTD, k_BGSD, v_BGSD, scale);
      case FusedAttention::none: return attention_reference(q_BNTD, k_BGSD, v_BGSD, ranges, scale);
    }
  }
  const int64_t B = q_BNTD.size(0), N = q_BNTD.size(1), T = q_BNTD.size(2), D = q_BNTD.size(3), G = k_BGSD.size(1);
  const int64_t S = k_BGSD.size(2), packed_floats = attention_tiles(S) * kAttentionTile * D, tiles = attention_tiles(T);
  AttentionResult result{at::empty({B, T, N, D}, q_BNTD.options()), at::empty({B, N, T}, q_BNTD.options().dtype(at::kFloat))};
  at::Tensor packed = at::empty({B * G, 2, packed_floats}, at::kFloat);
  const TileProduct product = best_tile_product();
  with_vector_type(q_BNTD, [&]<class E>(E) {
    const auto& kernels = vector_kernels<E>();
    parallel_parts(0, B * G, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        float* keys = pointer<float>(packed) + i * 2 * packed_floats;
        const int64_t b = i / G, g = i % G;
        kernels.pack_keys(S, D, pointer<E>(k_BGSD) + b * k_BGSD.stride(0) + g * k_BGSD.stride(1),
                          pointer<E>(v_BGSD) + b * v_BGSD.stride(0) + g * v_BGSD.stride(1),
                          keys, keys + packed_floats);
      }
    });
    parallel_parts(0, B * N * tiles, 1, [&](int64_t from, int64_t to) {
      std::vector<float> scratch(attention_scratch_floats(D));
      for (int64_t i = from; i < to; ++i) {
        const int64_t tile = i % tiles, n = i / tiles % N, b = i / (tiles * N);
        const float* keys = pointer<float>(packed) + (b * G + n / (N / G)) * 2 * packed_floats;
        const int64_t begin = tile * kAttentionTile, end = std::min(T, begin + kAttentionTile);
        kernels.attention(row_of<E>(q_BNTD, k_BGSD, v_BGSD, ranges, scale, b), n, begin, end, keys, keys + packed_floats, product, scratch.data(),
                          pointer<E>(result.out_BTND) + (b * T * N + n) * D, N * D, pointer<float>(result.log_sum_BNT) + (b * N + n) * T);
      }
    });
  });
  return result;
}

AttentionGradients attention_backward(const at::Tensor& dout_BTND, const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD,
                                      const AttentionResult& forward, const KeyRanges& ranges, double scale) {
  if (!vector_path(q_BNTD, k_BGSD)) {
    switch (fused_attention_for(q_BNTD, k_BGSD, v_BGSD, ranges, scale)) {
      case FusedAttention::flash: return flash_attention_backward(dout_BTND, q_BNTD, k_BGSD, v_BGSD, forward, ranges, scale);
      case FusedAttention::cudnn: return cudnn_attention_backward(dout_BTND, q_BNTD, k_BGSD, v_BGSD, forward, scale);
      case FusedAttention::none: return attention_backward_reference(dout_BTND, q_BNTD, k_BGSD, v_BGSD, forward, ranges, scale);
    }
  }
  const int64_t B = q_BNTD.size(0), N = q_BNTD.size(1), T = q_BNTD.size(2), D = q_BNTD.size(3), G = k_BGSD.size(1), S = k_BGSD.size(2);
  const at::Tensor dout = dout_BTND.contiguous();
  AttentionGradients result{at::empty_like(q_BNTD), at::empty({B, G, S, D}, k_BGSD.options()), at::empty({B, G, S, D}, v_BGSD.options())};
  const TileProduct product = best_tile_product();
  with_vector_type(q_BNTD, [&]<class E>(E) {
    parallel_parts(0, B * G, 1, [&](int64_t from, int64_t to) {
      std::vector<float> scratch(attention_backward_scratch_floats(T, S, D));
      for (int64_t i = from; i < to; ++i) {
        const int64_t b = i / G, g = i % G, head = g * (N / G);
        const int64_t at_token = (b * T * N + head) * D;
        vector_kernels<E>().attention_backward(row_of<E>(q_BNTD, k_BGSD, v_BGSD, ranges, scale, b), g, pointer<E>(forward.out_BTND) + at_token,
                                               pointer<E>(dout) + at_token, N * D, pointer<float>(forward.log_sum_BNT) + (b * N + head) * T, product,
                                               scratch.data(), pointer<E>(result.dq_BNTD) + (b * N + head) * T * D, pointer<E>(result.dk_BGSD) + i * S * D,
                                               pointer<E>(result.dv_BGSD) + i * S * D);
      }
    });
  });
  return result;
}

}  // namespace ponte
