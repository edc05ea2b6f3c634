#include "kernels/gated_delta_chunked.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "kernels/dispatch.h"

namespace ponte {
namespace {

constexpr int64_t kChunk = 64;

// [B, T, ...] -> [B, heads, chunks, kChunk, ...], T filled up with zeros.
at::Tensor in_chunks(const at::Tensor& x_BTN, int64_t filled) {
  at::Tensor x = x_BTN.transpose(1, 2);
  const int64_t missing = filled - x.size(2);
  if (missing > 0) {
    std::vector<int64_t> shape = x.sizes().vec();
    shape[2] = missing;
    x = at::cat({x, at::zeros(shape, x.options())}, 2);
  }
  return x.unflatten(2, {-1, kChunk});
}

// Which pairs of tokens of a chunk, and which ends of it, lie in one document. Without documents: all.
struct Neighbours {
  at::Tensor pair_BCtt;           // bool [B, 1, chunks, kChunk (later), kChunk (earlier)], the later not before the earlier
  at::Tensor from_before_BCt;     // type of the arithmetic: 1 where the token's document began before the chunk
  at::Tensor to_after_BCt;        // 1 where it is the document of the chunk's last token
};
Neighbours neighbours(const GatedDeltaInputs& in, int64_t filled, at::ScalarType wide) {
  const auto device = in.qkv_SC.device();
  at::Tensor starts = at::full({in.B, in.T}, -1, at::kLong);
  if (in.document_starts_BT.defined()) starts = in.document_starts_BT.to(at::kCPU);
  // Tokens that only fill the last chunk belong to the last document.
  if (filled > in.T) starts = at::cat({starts, starts.narrow(1, in.T - 1, 1).expand({in.B, filled - in.T})}, 1);
  const at::Tensor start = starts.view({in.B, 1, -1, kChunk}).to(device, /*non_blocking=*/true);
  const at::Tensor place = at::arange(filled, at::TensorOptions(device).dtype(at::kLong)).view({1, 1, -1, kChunk});
  const at::Tensor later = place.unsqueeze(-1), earlier = place.unsqueeze(-2), begin = place.narrow(-1, 0, 1);
  const at::Tensor causal = at::ge(later, earlier), together = at::le(start.unsqueeze(-1), earlier);
  return {at::logical_and(causal, together), at::lt(start, begin).to(wide), at::ge(place, start.narrow(-1, kChunk - 1, 1)).to(wide)};
}

struct Heads {
  at::Tensor q, k, v, beta, g;  // [B, N, chunks, kChunk(, D or V)]
};
Heads heads_of(const GatedDeltaInputs& in, int64_t filled, at::ScalarType wide) {
  const int64_t N = in.value_heads(), K = in.key_heads;
  const auto part = [&](int64_t from, int64_t count, int64_t width) {
    return in.qkv_SC.to(wide).narrow(1, from, count * width).view({in.B, in.T, count, width}).repeat_interleave(N / count, 2);
  };
  const auto normed = [](const at::Tensor& x) { return x * at::rsqrt(x.square().sum(-1, true) + 1e-6); };
  const auto gate = [&](const at::Tensor& x) { return x.to(wide).reshape({in.B, in.T, N}); };
  const at::Tensor g = -at::exp(in.A_log_N.to(wide)) * at::softplus(gate(in.alpha_SN) + in.dt_bias_N.to(wide));
  return {in_chunks(normed(part(0, K, in.D)) * (1 / std::sqrt(static_cast<double>(in.D))), filled), in_chunks(normed(part(K * in.D, K, in.D)), filled),
          in_chunks(part(2 * K * in.D, N, in.V), filled), in_chunks(at::sigmoid(gate(in.beta_SN)), filled), in_chunks(g, filled)};
}

}  // namespace

GatedDeltaResult gated_delta_chunked(const GatedDeltaInputs& in) {
  const at::ScalarType wide = accumulation_type(in.qkv_SC);
  const int64_t N = in.value_heads(), filled = (in.T + kChunk - 1) / kChunk * kChunk;
  const Heads h = heads_of(in, filled, wide);
  const Neighbours near = neighbours(in, filled, wide);
  // Sums of log decays in fp64: after strong decay, differences of fp32 sums would have lost the digits that weak decays need.
  const at::Tensor sum = h.g.to(at::kDouble).cumsum(-1), last = sum.narrow(-1, kChunk - 1, 1);
  const at::Tensor since_begin = at::exp(sum).to(wide) * near.from_before_BCt, until_end = at::exp(last - sum).to(wide) * near.to_after_BCt;
  const at::Tensor across = since_begin.narrow(-1, kChunk - 1, 1).unsqueeze(-1);  // of the state, over the whole chunk
  const at::Tensor decay = at::exp((sum.unsqueeze(-1) - sum.unsqueeze(-2)).masked_fill(near.pair_BCtt.logical_not(), -INFINITY)).to(wide);
  const at::Tensor beta = h.beta.unsqueeze(-1), keys_beta = h.k * beta;
  // What earlier tokens of the chunk have already written is taken off, all at once: a unit triangular system.
  const at::Tensor lower = (at::matmul(keys_beta, h.k.transpose(-1, -2)) * decay).tril(-1);
  const at::Tensor right = at::cat({h.v * beta, keys_beta * since_begin.unsqueeze(-1)}, -1);
  constexpr bool kUpper = false, kLeft = true, kUnitDiagonal = true;
  const at::Tensor solved = at::linalg_solve_triangular(lower + at::eye(kChunk, lower.options()), right, kUpper, kLeft, kUnitDiagonal);
  const at::Tensor u = solved.narrow(-1, 0, in.V), w = solved.narrow(-1, in.V, in.D);
  const at::Tensor seen = at::matmul(h.q, h.k.transpose(-1, -2)) * decay, q_begin = h.q * since_begin.unsqueeze(-1), k_end = h.k * until_end.unsqueeze(-1);
  at::Tensor state = in.state_BNDV.defined() ? in.state_BNDV.to(wide) : at::zeros({in.B, N, in.D, in.V}, h.q.options().requires_grad(false));
  std::vector<at::Tensor> out;
  for (int64_t c = 0; c < filled / kChunk; ++c) {
    const auto at_chunk = [&](const at::Tensor& t) { return t.select(2, c); };
    const at::Tensor written = at_chunk(u) - at::matmul(at_chunk(w), state);
    out.push_back(at::matmul(at_chunk(q_begin), state) + at::matmul(at_chunk(seen), written));
    state = state * at_chunk(across) + at::matmul(at_chunk(k_end).transpose(-1, -2), written);
  }
  const at::Tensor out_BTNV = at::cat(out, 2).narrow(2, 0, in.T).transpose(1, 2);
  return {out_BTNV.reshape({in.B * in.T, N * in.V}).to(in.qkv_SC.scalar_type()), state};
}

void gated_delta_chunked_backward(const at::Tensor& dout_SV, const GatedDeltaInputs& inputs, GatedDeltaGradients& gradients) {
  GatedDeltaInputs in = inputs;
  const at::AutoGradMode on(true);
  std::vector<at::Tensor> leaves;
  for (at::Tensor* t : {&in.qkv_SC, &in.beta_SN, &in.alpha_SN, &in.A_log_N, &in.dt_bias_N}) {
    *t = t->detach().requires_grad_(true);
    leaves.push_back(*t);
  }
  const bool with_state = gradients.dstate_BNDV.defined();
  if (with_state) {
    if (!in.state_BNDV.defined()) in.state_BNDV = at::zeros_like(gradients.dstate_BNDV);
    in.state_BNDV = in.state_BNDV.detach().requires_grad_(true);
    leaves.push_back(in.state_BNDV);
  }
  const GatedDeltaResult result = gated_delta_chunked(in);
  std::vector<at::Tensor> outputs = {result.out_SV}, douts = {dout_SV.to(result.out_SV.scalar_type())};
  if (with_state) {
    outputs.push_back(result.state_BNDV);
    douts.push_back(gradients.dstate_BNDV.clone());
  }
  const auto d = torch::autograd::grad(outputs, leaves, douts);
  const at::NoGradGuard off;
  gradients.dqkv_SC.copy_(d[0]);
  gradients.dbeta_SN.copy_(d[1]);
  gradients.dalpha_SN.copy_(d[2]);
  if (gradients.dA_log_N.defined()) gradients.dA_log_N.add_(d[3]);
  if (gradients.ddt_bias_N.defined()) gradients.ddt_bias_N.add_(d[4]);
  if (with_state) gradients.dstate_BNDV.copy_(d[5]);
}

}  // namespace ponte
