#include "model/decode.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/errors.h"
#include "kernels/dispatch.h"

namespace ponte {
namespace {

constexpr int64_t kMostRows = 8;        // what matrix_vector takes
constexpr int64_t kRowsPerThread = 64;  // below that a second thread costs more than it gives

template <class T>
class Decoding {
 public:
  Decoding(const Model::State& state, KvCache& cache, const std::vector<int64_t>& counts, const Angles& angles)
      : state_(state), cache_(cache), counts_(counts), angles_(angles), B_(static_cast<int64_t>(counts.size())), H_(state.config.hidden_size) {}

  at::Tensor run(const int64_t* tokens) {
    std::vector<float> x(B_ * H_), normed(B_ * H_);
    const Parameter& table = *state_.embedding.weight;
    for (int64_t b = 0; b < B_; ++b) {
      typed_.to_float(H_, weights(table) + tokens[b] * H_, x.data() + b * H_);
    }
    for (size_t i = 0; i < state_.decoder.layers.size(); ++i) layer(static_cast<int64_t>(i), x, normed);
    norm(state_.final_norm, x, normed);
    at::Tensor logits = at::empty({B_, state_.config.vocab_size}, at::kFloat);
    product(*state_.loss_head.weight, normed.data(), logits.mutable_data_ptr<float>(), false);
    return logits;
  }

 private:
  const T* weights(const Parameter& p) const { return static_cast<const T*>(p.value.const_data_ptr()); }

  std::vector<float> widened(const Parameter* p) const {
    std::vector<float> out(p ? p->value.numel() : 0);
    if (p) typed_.to_float(p->value.numel(), weights(*p), out.data());
    return out;
  }

  void product(const Parameter& w, const float* x, float* y, bool accumulate) const { product(w, x, y, accumulate, B_); }
  void product(const Parameter& w, const float* x, float* y, bool accumulate, int64_t rows) const {
    const int64_t O = w.value.size(0), I = w.value.size(1);
    parallel_parts(0, O, kRowsPerThread, [&](int64_t begin, int64_t end) { typed_.matrix_vector(begin, end, I, rows, weights(w), x, y, O, accumulate); });
  }

  void norm(const RmsNorm& n, const std::vector<float>& x, std::vector<float>& y) const {
    float rstd[kMostRows];
    plain_.rms_norm(B_, H_, x.data(), widened(n.weight).data(), static_cast<float>(n.options.epsilon), static_cast<float>(n.options.offset), y.data(), rstd);
  }

  void layer(int64_t index, std::vector<float>& x, std::vector<float>& normed) {
    const DecoderLayer& layer = state_.decoder.layers[index];
    norm(layer.mixer_norm, x, normed);
    if (const auto* linear = std::get_if<GatedDeltaNet>(&layer.mixer)) linear_attention(*linear, index, normed, x);
    else attention(std::get<SelfAttention>(layer.mixer), index, normed, x);
    norm(layer.mlp_norm, x, normed);
    if (const auto* sparse = std::get_if<MoeMlp>(&layer.mlp)) return experts(*sparse, normed, x);
    const GatedMlp& mlp = std::get<GatedMlp>(layer.mlp);
    gated(*mlp.linear_fc1.weight, *mlp.linear_fc2.weight, B_, normed.data(), nullptr, x.data());
  }

  // y += weight x fc2(silu(gate) * up) for each of `rows` rows; weights: one per row, null: all 1.
  void gated(const Parameter& fc1, const Parameter& fc2, int64_t rows, const float* x, const float* weights, float* y) const {
    const int64_t F = fc2.value.size(1);
    std::vector<float> gate_up(rows * 2 * F), activated(rows * F);
    product(fc1, x, gate_up.data(), false, rows);
    plain_.swiglu(rows, F, gate_up.data(), activated.data());
    for (int64_t i = 0; weights && i < rows * F; ++i) activated[i] *= weights[i / F];
    product(fc2, activated.data(), y, true, rows);
  }

  // Only the chosen experts' weights are read, each once for each row that chose it.
  void experts(const MoeMlp& moe, const std::vector<float>& normed, std::vector<float>& x) const {
    at::Tensor logits = at::empty({B_, moe.router.options.experts}, at::kFloat);
    product(*moe.router.weight, normed.data(), logits.mutable_data_ptr<float>(), false);
    const Routing routing = moe.router.choose(logits);
    const at::Tensor chosen = routing.experts_SK.contiguous(), weights = routing.weights_SK.contiguous();
    const int64_t K = chosen.size(1);
    if (moe.shared) shared_expert(*moe.shared, normed, x);
    for (int64_t i = 0; i < B_ * K; ++i) {
      const int64_t e = chosen.const_data_ptr<int64_t>()[i], row = i / K * H_;
      gated(*moe.experts.linear_fc1[e], *moe.experts.linear_fc2[e], 1, normed.data() + row, weights.const_data_ptr<float>() + i, x.data() + row);
    }
  }

  void shared_expert(const SharedExpert& shared, const std::vector<float>& normed, std::vector<float>& x) const {
    std::vector<float> gate(B_, 1.0f);
    if (shared.gate) {
      product(*shared.gate, normed.data(), gate.data(), false);
      for (float& g : gate) g = 1.0f / (1.0f + std::exp(-g));
    }
    gated(*shared.mlp.linear_fc1.weight, *shared.mlp.linear_fc2.weight, B_, normed.data(), gate.data(), x.data());
  }

  // x += projection of this token's attention.
  void attention(const SelfAttention& a, int64_t index, const std::vector<float>& normed, std::vector<float>& x) {
    const HeadLayout& l = a.layout;
    const int64_t D = l.head_dim, N = l.heads(), G = l.groups;
    const QkvShape shape{1, G, l.queries_per_group, D, 2 * angles_.cos_SR.size(1), l.gates()};
    std::vector<float> qkv(B_ * shape.width()), q(B_ * N * D), k(B_ * G * D), v(B_ * G * D), rstd(B_ * (N + G)), out(B_ * N * D);
    product(*a.linear_qkv.weight, normed.data(), qkv.data(), false);
    if (a.linear_qkv.bias) {
      const auto bias = widened(a.linear_qkv.bias);
      for (size_t i = 0; i < qkv.size(); ++i) qkv[i] += bias[i % bias.size()];
    }
    const auto query_norm = widened(a.q_layernorm), key_norm = widened(a.k_layernorm);
    const QkNorm<float> norms{a.q_layernorm ? query_norm.data() : nullptr, a.k_layernorm ? key_norm.data() : nullptr, static_cast<float>(a.norm.epsilon),
                              static_cast<float>(a.norm.offset)};
    plain_.split_qkv(0, B_, shape, qkv.data(), norms, pointer<float>(angles_.cos_SR), pointer<float>(angles_.sin_SR), q.data(), k.data(), v.data(),
                     rstd.data());
    const int64_t row = cache_.max_tokens() * D;  // one head of one row
    T *keys = pointer<T>(cache_.keys(index)), *values = pointer<T>(cache_.values(index));
    for (int64_t i = 0; i < B_ * G; ++i) {
      if (counts_[i / G] == 0) continue;  // its cache may be full
      const int64_t at = i * row + cache_.length(i / G) * D;
      typed_.from_float(D, k.data() + i * D, keys + at);
      typed_.from_float(D, v.data() + i * D, values + at);
    }
    parallel_parts(0, B_ * N, 4, [&](int64_t begin, int64_t end) {
      std::vector<float> scores(cache_.max_tokens());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / N, last = cache_.length(b) + counts_[b], first = a.window ? std::max<int64_t>(0, last - *a.window) : 0;
        const int64_t at = (b * G + i % N / l.queries_per_group) * row + first * D;
        typed_.attend_one(last - first, D, q.data() + i * D, keys + at, values + at, static_cast<float>(a.scale), scores.data(), out.data() + i * D);
      }
    });
    if (l.gate != OutputGate::none) plain_.gate_heads(0, B_, shape, qkv.data(), out.data(), out.data());
    product(*a.linear_proj.weight, out.data(), x.data(), true);
  }

  // x += projection of this token's linear attention.
  void linear_attention(const GatedDeltaNet& net, int64_t index, const std::vector<float>& normed, std::vector<float>& x) {
    const GatedDeltaLayout& l = net.layout;
    const int64_t C = l.channels(), width = l.width(), V = l.value_width(), N = l.value_heads;
    std::vector<float> projected(B_ * width), convolved(B_ * C), out(B_ * V), rstd(B_ * N);
    product(*net.in_proj.weight, normed.data(), projected.data(), false);
    GatedDeltaMemory& memory = cache_.memory(index);
    convolve(net, memory, projected, convolved);
    const auto& kernels = delta_kernels<float>();
    const int64_t R = N / l.key_heads, size = l.key_dim * l.value_dim;
    parallel_parts(0, B_ * l.key_heads, 4, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(delta_scratch(R, l.key_dim, l.value_dim));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / l.key_heads, h = i % l.key_heads;
        if (counts_[b] == 0) continue;
        const float *row = convolved.data() + b * C, *gates = projected.data() + b * width + C + V + h * R;
        float* state = pointer<float>(memory.state_BNDV) + (b * N + h * R) * size;
        if (cache_.length(b) == 0) std::fill_n(state, R * size, 0.0f);
        const float *q = row + h * l.key_dim, *k = q + l.key_heads * l.key_dim, *v = row + 2 * l.key_heads * l.key_dim + h * R * l.value_dim;
        const float *A_log = pointer<float>(net.A_log->value) + h * R, *dt_bias = pointer<float>(net.dt_bias->value) + h * R;
        const DeltaHead<float, float> head{q, k, v, C, gates, gates + N, width, A_log, dt_bias, 1, R, l.key_dim, l.value_dim, nullptr, true};
        kernels.step(head, scratch.data(), out.data() + b * V + h * R * l.value_dim, V, state);
      }
    });
    plain_.gated_rms_norm(B_, N, l.value_dim, out.data(), projected.data() + C, width, widened(net.out_norm).data(), static_cast<float>(net.norm.epsilon),
                          static_cast<float>(net.norm.offset), out.data(), rstd.data());
    product(*net.out_proj.weight, out.data(), x.data(), true);
  }

  // Each row's inputs join its history, and the oldest leave it.
  void convolve(const GatedDeltaNet& net, GatedDeltaMemory& memory, const std::vector<float>& projected, std::vector<float>& convolved) const {
    const int64_t C = net.layout.channels(), W = net.conv1d->value.size(2);
    const auto weight_CW = widened(net.conv1d);
    std::vector<float> weight_WC(weight_CW.size());
    for (int64_t i = 0; i < C * W; ++i) weight_WC[i % W * C + i / W] = weight_CW[i];
    for (int64_t b = 0; b < B_; ++b) {
      if (counts_[b] == 0) continue;
      float* history = pointer<float>(memory.history_BHC) + b * (W - 1) * C;
      if (cache_.length(b) == 0) std::fill_n(history, (W - 1) * C, 0.0f);
      const float* input = projected.data() + b * net.layout.width();
      std::vector<const float*> rows;
      for (int64_t w = 0; w + 1 < W; ++w) rows.push_back(history + w * C);
      rows.push_back(input);
      plain_.convolve(C, W, rows.data(), weight_WC.data(), convolved.data() + b * C);
      std::copy_n(history + std::min<int64_t>(1, W - 1) * C, std::max<int64_t>(W - 2, 0) * C, history);
      if (W > 1) std::copy_n(input, C, history + (W - 2) * C);
    }
  }

  const Model::State& state_;
  KvCache& cache_;
  const std::vector<int64_t>& counts_;  // 1, or 0 for a row that is finished
  const Angles& angles_;
  const int64_t B_, H_;
  const VectorKernels<T>& typed_ = vector_kernels<T>();
  const VectorKernels<float>& plain_ = vector_kernels<float>();
};

}  // namespace

bool can_decode(const Model::State& state, int64_t B, int64_t T) {
  return T == 1 && B <= kMostRows && state.groups.tensor->size() == 1 && state.groups.expert_tensor_expert->size() == 1 &&
         has_vector_path(state.embedding.weight->value);
}

at::Tensor decode(const Model::State& state, const at::Tensor& tokens_B1, KvCache& cache, const std::vector<int64_t>& counts, const Angles& angles) {
  const at::Tensor tokens = tokens_B1.contiguous();
  return with_vector_type(state.embedding.weight->value, [&]<class T>(T) {
    return Decoding<T>(state, cache, counts, angles).run(tokens.const_data_ptr<int64_t>());
  });
}

}  // namespace ponte
