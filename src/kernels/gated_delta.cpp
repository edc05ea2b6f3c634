#include "kernels/gated_delta.h"

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "base/errors.h"
#include "kernels/dispatch.h"
#include "kernels/gated_delta_chunked.h"
#include "kernels/tile_product.h"

namespace ponte {
namespace {

constexpr int64_t kFewTokens = 8;  // up to here stepping is cheaper than a chunk

template <class T>
struct Computes { using Type = float; };
template <>
struct Computes<double> { using Type = double; };

template <class Body>
void with_delta_type(const at::Tensor& t, Body body) {
  PONTE_ASSERT(t.device().is_cpu());
  if (t.scalar_type() == at::kDouble) return body(double{});
  with_vector_type(t, body);
}

template <class F>
ProductOf<F> product_for() {
  if constexpr (std::is_same_v<F, float>) return best_tile_product();
  else return delta_kernels<F>().product;
}

// Memory that is written before it is read.
template <class F>
std::unique_ptr<F[]> room(int64_t n) { return std::unique_ptr<F[]>(new F[static_cast<size_t>(n)]); }

struct Offsets {
  int64_t q, k, v, gate, out, state, heads;
};
Offsets offsets_of(const GatedDeltaInputs& in, int64_t b, int64_t key_head) {
  const int64_t row = b * in.T, K = in.key_heads, R = in.value_heads() / K, C = in.qkv_SC.size(1);
  return {row * C + key_head * in.D, row * C + (K + key_head) * in.D, row * C + 2 * K * in.D + key_head * R * in.V, row * in.beta_SN.stride(0) + key_head * R,
          (row * K + key_head) * R * in.V, (b * K + key_head) * R * in.D * in.V, key_head * R};
}

template <class T, class F>
DeltaHead<T, F> head_of(const GatedDeltaInputs& in, int64_t b, int64_t key_head) {
  const Offsets o = offsets_of(in, b, key_head);
  const T* qkv = pointer<T>(in.qkv_SC);
  const int64_t* starts = in.document_starts_BT.defined() ? pointer<const int64_t>(in.document_starts_BT) + b * in.T : nullptr;
  return {qkv + o.q, qkv + o.k, qkv + o.v, in.qkv_SC.size(1), pointer<T>(in.beta_SN) + o.gate, pointer<T>(in.alpha_SN) + o.gate, in.beta_SN.stride(0),
          pointer<F>(in.A_log_N) + o.heads, pointer<F>(in.dt_bias_N) + o.heads, in.T, in.value_heads() / in.key_heads, in.D, in.V, starts,
          in.state_BNDV.defined()};
}

void check(const GatedDeltaInputs& in) {
  const int64_t N = in.value_heads(), K = in.key_heads;
  PONTE_ASSERT(N % K == 0 && in.qkv_SC.size(0) == in.B * in.T && in.qkv_SC.size(1) == 2 * K * in.D + N * in.V && in.qkv_SC.is_contiguous());
  PONTE_ASSERT(in.beta_SN.size(1) == N && in.beta_SN.stride(1) == 1 && in.beta_SN.strides() == in.alpha_SN.strides() && in.beta_SN.size(0) == in.B * in.T);
  PONTE_ASSERT(!in.document_starts_BT.defined() || in.document_starts_BT.is_contiguous());
}

// Parameters in the type of the arithmetic; fp16 as fp32.
GatedDeltaInputs prepared(const GatedDeltaInputs& in) {
  GatedDeltaInputs out = in;
  const auto wide = accumulation_type(in.qkv_SC);
  if (in.qkv_SC.scalar_type() == at::kHalf)
    for (at::Tensor* t : {&out.qkv_SC, &out.beta_SN, &out.alpha_SN}) *t = t->to(wide).contiguous();
  for (at::Tensor* t : {&out.A_log_N, &out.dt_bias_N}) *t = t->detach().to(wide).contiguous();
  out.qkv_SC = out.qkv_SC.contiguous();
  if (in.document_starts_BT.defined()) out.document_starts_BT = in.document_starts_BT.contiguous();
  check(out);
  return out;
}

at::Tensor first_state(const GatedDeltaInputs& in) {
  const at::ScalarType wide = accumulation_type(in.qkv_SC);
  if (in.state_BNDV.defined()) return in.state_BNDV.to(wide).clone(at::MemoryFormat::Contiguous);
  return at::zeros({in.B, in.value_heads(), in.D, in.V}, in.qkv_SC.options().dtype(wide));
}

}  // namespace

GatedDeltaResult gated_delta_reference(const GatedDeltaInputs& in) {
  const auto wide = accumulation_type(in.qkv_SC);
  const int64_t N = in.value_heads(), K = in.key_heads, D = in.D, V = in.V;
  const auto heads = [&](int64_t from, int64_t count, int64_t width) {  // [B, T, N, width]
    return in.qkv_SC.to(wide).narrow(1, from, count * width).view({in.B, in.T, count, width}).repeat_interleave(N / count, 2);
  };
  const auto normed = [](const at::Tensor& x) { return x * at::rsqrt(x.square().sum(-1, true) + 1e-6); };
  const at::Tensor q = normed(heads(0, K, D)) * (1 / std::sqrt(static_cast<double>(D))), k = normed(heads(K * D, K, D)), v = heads(2 * K * D, N, V);
  const at::Tensor beta = at::sigmoid(in.beta_SN.to(wide)).view({in.B, in.T, N, 1});
  const at::Tensor g = (-at::exp(in.A_log_N.to(wide)) * at::softplus(in.alpha_SN.to(wide) + in.dt_bias_N.to(wide))).view({in.B, in.T, N, 1, 1});
  at::Tensor state = first_state(in);
  std::vector<at::Tensor> out;
  for (int64_t t = 0; t < in.T; ++t) {
    state = state * at::exp(g.select(1, t));
    if (in.document_starts_BT.defined()) state = state * in.document_starts_BT.to(state.device()).select(1, t).ne(t).view({in.B, 1, 1, 1});
    const at::Tensor key = k.select(1, t).unsqueeze(-1);
    state = state + key * ((v.select(1, t) - (state * key).sum(-2)) * beta.select(1, t)).unsqueeze(-2);
    out.push_back((state * q.select(1, t).unsqueeze(-1)).sum(-2));
  }
  return {at::stack(out, 1).reshape({in.B * in.T, N * V}).to(in.qkv_SC.scalar_type()), state};
}

GatedDeltaResult gated_delta(const GatedDeltaInputs& inputs) {
  if (!inputs.qkv_SC.device().is_cpu()) return inputs.T <= kFewTokens ? gated_delta_reference(inputs) : gated_delta_chunked(inputs);
  const GatedDeltaInputs in = prepared(inputs);
  const int64_t K = in.key_heads, N = in.value_heads();
  GatedDeltaResult result{at::empty({in.B * in.T, N * in.V}, in.qkv_SC.options()), first_state(in)};
  with_delta_type(in.qkv_SC, [&]<class T>(T) {
    using F = typename Computes<T>::Type;
    const auto& kernels = delta_kernels<T>();
    parallel_parts(0, in.B * K, 1, [&](int64_t from, int64_t to) {
      const auto scratch = room<F>(delta_scratch(N / K, in.D, in.V));
      for (int64_t i = from; i < to; ++i) {
        const Offsets o = offsets_of(in, i / K, i % K);
        const auto head = head_of<T, F>(in, i / K, i % K);
        T* out = pointer<T>(result.out_SV) + o.out;
        F* state = pointer<F>(result.state_BNDV) + o.state;
        if (in.T <= kFewTokens) kernels.step(head, scratch.get(), out, N * in.V, state);
        else kernels.forward(head, product_for<F>(), scratch.get(), out, N * in.V, state, nullptr);
      }
    });
  });
  result.out_SV = result.out_SV.to(inputs.qkv_SC.scalar_type());
  return result;
}

void gated_delta_backward(const at::Tensor& dout_SV, const GatedDeltaInputs& inputs, GatedDeltaGradients& gradients) {
  if (!inputs.qkv_SC.device().is_cpu()) return gated_delta_chunked_backward(dout_SV, inputs, gradients);
  const GatedDeltaInputs in = prepared(inputs);
  const int64_t K = in.key_heads, N = in.value_heads(), R = N / K, size = R * in.D * in.V;
  const auto type = in.qkv_SC.options();
  const at::Tensor dout = dout_SV.to(in.qkv_SC.scalar_type()).contiguous();
  const bool direct = gradients.dqkv_SC.scalar_type() == in.qkv_SC.scalar_type() && gradients.dqkv_SC.is_contiguous() &&
                      gradients.dbeta_SN.strides() == in.beta_SN.strides() && gradients.dalpha_SN.strides() == in.beta_SN.strides();
  const at::Tensor dqkv = direct ? gradients.dqkv_SC : at::empty(in.qkv_SC.sizes(), type);
  const auto like_beta = [&](const at::Tensor& given) { return direct ? given : at::empty_strided(in.beta_SN.sizes(), in.beta_SN.strides(), type); };
  const at::Tensor dbeta = like_beta(gradients.dbeta_SN), dalpha = like_beta(gradients.dalpha_SN);
  const at::Tensor parameters = at::zeros({2, in.B, N}, in.A_log_N.options()), first = first_state(in);
  const at::Tensor dstate = gradients.dstate_BNDV.defined() ? gradients.dstate_BNDV : at::zeros_like(first);
  PONTE_ASSERT(dstate.is_contiguous() && dstate.scalar_type() == first.scalar_type() && dstate.sizes() == first.sizes());
  with_delta_type(in.qkv_SC, [&]<class T>(T) {
    using F = typename Computes<T>::Type;
    const auto& kernels = delta_kernels<T>();
    parallel_parts(0, in.B * K, 1, [&](int64_t from, int64_t to) {
      const auto scratch = room<F>(delta_backward_scratch(R, in.D, in.V)), states = room<F>(delta_chunks(in.T) * size);
      for (int64_t i = from; i < to; ++i) {
        const Offsets o = offsets_of(in, i / K, i % K);
        const auto head = head_of<T, F>(in, i / K, i % K);
        kernels.forward(head, product_for<F>(), scratch.get(), nullptr, 0, pointer<F>(first) + o.state, states.get());
        F* sums = pointer<F>(parameters) + i / K * N + o.heads;
        kernels.backward(head, product_for<F>(), scratch.get(), states.get(), pointer<F>(dstate) + o.state, pointer<T>(dout) + o.out, N * in.V,
                         pointer<T>(dqkv) + o.q, pointer<T>(dqkv) + o.k, pointer<T>(dqkv) + o.v, pointer<T>(dbeta) + o.gate,
                         pointer<T>(dalpha) + o.gate, sums, sums + in.B * N);
      }
    });
  });
  if (!direct) {
    gradients.dqkv_SC.copy_(dqkv);
    gradients.dbeta_SN.copy_(dbeta);
    gradients.dalpha_SN.copy_(dalpha);
  }
  if (gradients.dA_log_N.defined()) gradients.dA_log_N.add_(parameters[0].sum(0));
  if (gradients.ddt_bias_N.defined()) gradients.ddt_bias_N.add_(parameters[1].sum(0));
}

}  // namespace ponte
