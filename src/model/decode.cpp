#include "model/decode.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>
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
  Decoding(const Model::State& state, KvCache& cache, const CachedStep& step)
      : state_(state), cache_(cache), step_(step), B_(step.B), T_(step.T), S_(step.B * step.T), H_(state.config.hidden_size) {}

  CachedPass run(const int64_t* tokens, std::span<const int64_t> wanted) {
    std::vector<float> x = embedded(tokens), normed(S_ * H_);
    for (size_t i = 0; i < state_.decoder.layers.size(); ++i) layer(state_.decoder.layers[i], static_cast<int64_t>(i), x, normed);
    return finish(state_.final_norm, x, normed, wanted);
  }

  CachedPass run(const PredictionLayer& prediction, const int64_t* tokens, const float* hidden, std::span<const int64_t> wanted) {
    const std::vector<float> before(hidden, hidden + S_ * H_);
    std::vector<float> x = embedded(tokens), normed(S_ * H_), both(S_ * 2 * H_);
    norm(prediction.embedding_norm, x, normed);
    for (int64_t s = 0; s < S_; ++s) std::copy_n(normed.data() + s * H_, H_, both.data() + s * 2 * H_);
    norm(prediction.hidden_norm, before, normed);
    for (int64_t s = 0; s < S_; ++s) std::copy_n(normed.data() + s * H_, H_, both.data() + (2 * s + 1) * H_);
    product(*prediction.eh_proj.weight, both.data(), x.data(), false);
    layer(prediction.layer, 0, x, normed);
    return finish(prediction.final_norm, x, normed, wanted);
  }

 private:
  std::vector<float> embedded(const int64_t* tokens) const {
    std::vector<float> x(S_ * H_);
    for (int64_t s = 0; s < S_; ++s) typed_.to_float(H_, weights(*state_.embedding.weight) + tokens[s] * H_, x.data() + s * H_);
    return x;
  }

  CachedPass finish(const RmsNorm& final_norm, const std::vector<float>& x, std::vector<float>& normed, std::span<const int64_t> wanted) const {
    norm(final_norm, x, normed);
    const auto rows = static_cast<int64_t>(wanted.size());
    CachedPass out{at::empty({S_, H_}, at::kFloat), at::empty({rows, state_.config.vocab_size}, at::kFloat)};
    std::copy(normed.begin(), normed.end(), out.hidden_SH.mutable_data_ptr<float>());
    std::vector<float> last(rows * H_);
    for (int64_t i = 0; i < rows; ++i) std::copy_n(normed.data() + wanted[i] * H_, H_, last.data() + i * H_);
    product(*state_.loss_head.weight, last.data(), out.logits.mutable_data_ptr<float>(), false, rows);
    return out;
  }

  // Token s = b * T + t of the pass: whether its row appends it, and its place in the row's cache.
  bool appends(int64_t s) const { return s % T_ < step_.counts[s / T_]; }
  int64_t place(int64_t s) const { return cache_.length(s / T_) + s % T_; }

  const T* weights(const Parameter& p) const { return static_cast<const T*>(p.value.const_data_ptr()); }

  std::vector<float> widened(const Parameter* p) const {
    std::vector<float> out(p ? p->value.numel() : 0);
    if (p) typed_.to_float(p->value.numel(), weights(*p), out.data());
    return out;
  }

  void product(const Parameter& w, const float* x, float* y, bool accumulate) const { product(w, x, y, accumulate, S_); }
  void product(const Parameter& w, const float* x, float* y, bool accumulate, int64_t rows) const {
    const int64_t O = w.value.size(0), I = w.value.size(1);
    parallel_parts(0, O, kRowsPerThread, [&](int64_t begin, int64_t end) { typed_.matrix_vector(begin, end, I, rows, weights(w), x, y, O, accumulate); });
  }

  void norm(const RmsNorm& n, const std::vector<float>& x, std::vector<float>& y) const {
    float rstd[kMostRows];
    plain_.rms_norm(S_, H_, x.data(), widened(n.weight).data(), static_cast<float>(n.options.epsilon), static_cast<float>(n.options.offset), y.data(), rstd);
  }

  // index: in the cache.
  void layer(const DecoderLayer& layer, int64_t index, std::vector<float>& x, std::vector<float>& normed) {
    norm(layer.mixer_norm, x, normed);
    if (const auto* linear = std::get_if<GatedDeltaNet>(&layer.mixer)) linear_attention(*linear, index, normed, x);
    else attention(std::get<SelfAttention>(layer.mixer), index, normed, x);
    norm(layer.mlp_norm, x, normed);
    if (const auto* sparse = std::get_if<MoeMlp>(&layer.mlp)) return experts(*sparse, normed, x);
    const GatedMlp& mlp = std::get<GatedMlp>(layer.mlp);
    gated(*mlp.linear_fc1.weight, *mlp.linear_fc2.weight, S_, normed.data(), nullptr, x.data());
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

  // Only the chosen experts' weights are read, each once for all tokens that chose it.
  void experts(const MoeMlp& moe, const std::vector<float>& normed, std::vector<float>& x) const {
    at::Tensor logits = at::empty({S_, moe.router.options.experts}, at::kFloat);
    product(*moe.router.weight, normed.data(), logits.mutable_data_ptr<float>(), false);
    const Routing routing = moe.router.choose(logits);
    const at::Tensor chosen = routing.experts_SK.contiguous(), weights = routing.weights_SK.contiguous();
    if (moe.shared) shared_expert(*moe.shared, normed, x);
    const int64_t P = chosen.numel(), K = chosen.size(1), F = moe.experts.linear_fc2[0]->value.size(1);
    const int64_t* expert = chosen.const_data_ptr<int64_t>();
    std::vector<int64_t> order(P), place(P);  // choices, expert by expert, and where each of them stands there
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [expert](int64_t a, int64_t b) { return expert[a] < expert[b]; });
    std::vector<int64_t> first;  // of each chosen expert's rows
    std::vector<float> rows(P * H_), gate_up(P * 2 * F), activated(P * F), out(P * H_);
    for (int64_t p = 0; p < P; ++p) {
      place[order[p]] = p;
      std::copy_n(normed.data() + order[p] / K * H_, H_, rows.data() + p * H_);
      if (p == 0 || expert[order[p]] != expert[order[p - 1]]) first.push_back(p);
    }
    const auto number = [&](int64_t row) { return expert[order[row]]; };
    first.push_back(P);
    grouped_product(moe.experts.linear_fc1, number, first, rows.data(), gate_up.data());
    plain_.swiglu(P, F, gate_up.data(), activated.data());
    for (int64_t i = 0; i < P * F; ++i) activated[i] *= weights.const_data_ptr<float>()[order[i / F]];
    grouped_product(moe.experts.linear_fc2, number, first, activated.data(), out.data());
    for (int64_t i = 0; i < P; ++i)  // in the order of the choices
      for (int64_t h = 0; h < H_; ++h) x[i / K * H_ + h] += out[place[i] * H_ + h];
  }

  // Rows first[g] .. first[g + 1] by the weight of the expert that number(first[g]) names, all experts' output rows shared out together.
  template <class Number>
  void grouped_product(const std::vector<Parameter*>& experts, const Number& number, const std::vector<int64_t>& first, const float* x, float* y) const {
    const int64_t O = experts[0]->value.size(0), I = experts[0]->value.size(1);
    parallel_parts(0, static_cast<int64_t>(first.size() - 1) * O, kRowsPerThread, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t g = begin / O, stop = std::min(end, (g + 1) * O), row = first[g];
        typed_.matrix_vector(begin - g * O, stop - g * O, I, first[g + 1] - row, weights(*experts[number(row)]), x + row * I, y + row * O, O, false);
        begin = stop;
      }
    });
  }

  void shared_expert(const SharedExpert& shared, const std::vector<float>& normed, std::vector<float>& x) const {
    std::vector<float> gate(S_, 1.0f);
    if (shared.gate) {
      product(*shared.gate, normed.data(), gate.data(), false);
      for (float& g : gate) g = 1.0f / (1.0f + std::exp(-g));
    }
    gated(*shared.mlp.linear_fc1.weight, *shared.mlp.linear_fc2.weight, S_, normed.data(), gate.data(), x.data());
  }

  void norm_all_heads(const SelfAttention& a, std::vector<float>& qkv) const {
    const HeadLayout& l = a.layout;
    const int64_t D = l.head_dim, group = l.group_heads() * D;
    const auto norm = [&](const RmsNorm& n, int64_t first, int64_t heads) {
      const auto weight = widened(n.weight);
      std::vector<float> part(weight.size());
      for (int64_t s = 0; s < S_; ++s) {
        float rstd, *row = qkv.data() + s * l.groups * group + first * D;
        for (int64_t g = 0; g < l.groups; ++g) std::copy_n(row + g * group, heads * D, part.data() + g * heads * D);
        plain_.rms_norm(1, static_cast<int64_t>(part.size()), part.data(), weight.data(), static_cast<float>(n.options.epsilon),
                        static_cast<float>(n.options.offset), part.data(), &rstd);
        for (int64_t g = 0; g < l.groups; ++g) std::copy_n(part.data() + g * heads * D, heads * D, row + g * group);
      }
    };
    norm(*a.query_norm, 0, l.queries_per_group);
    norm(*a.key_norm, l.queries_per_group, 1);
  }

  // x += projection of each token's attention.
  void attention(const SelfAttention& a, int64_t index, const std::vector<float>& normed, std::vector<float>& x) {
    const HeadLayout& l = a.layout;
    const int64_t D = l.head_dim, N = l.heads(), G = l.groups;
    const QkvShape shape{1, G, l.queries_per_group, D, 2 * step_.angles.cos_SR.size(1), l.gates()};
    std::vector<float> qkv(S_ * shape.width()), q(S_ * N * D), k(S_ * G * D), v(S_ * G * D), rstd(S_ * (N + G)), out(S_ * N * D);
    product(*a.linear_qkv.weight, normed.data(), qkv.data(), false);
    if (a.linear_qkv.bias) {
      const auto bias = widened(a.linear_qkv.bias);
      for (size_t i = 0; i < qkv.size(); ++i) qkv[i] += bias[i % bias.size()];
    }
    if (a.query_norm) norm_all_heads(a, qkv);
    const auto query_norm = widened(a.q_layernorm), key_norm = widened(a.k_layernorm);
    const QkNorm<float> norms{a.q_layernorm ? query_norm.data() : nullptr, a.k_layernorm ? key_norm.data() : nullptr, static_cast<float>(a.norm.epsilon),
                              static_cast<float>(a.norm.offset)};
    plain_.split_qkv(0, S_, shape, qkv.data(), norms, pointer<float>(step_.angles.cos_SR), pointer<float>(step_.angles.sin_SR), q.data(), k.data(), v.data(),
                     rstd.data());
    const int64_t row = cache_.max_tokens() * D;  // one head of one row
    T *keys = pointer<T>(cache_.keys(index)), *values = pointer<T>(cache_.values(index));
    for (int64_t i = 0; i < S_ * G; ++i) {
      const int64_t s = i / G;
      if (!appends(s)) continue;  // its cache may be full
      const int64_t at = (s / T_ * G + i % G) * row + place(s) * D;
      typed_.from_float(D, k.data() + i * D, keys + at);
      typed_.from_float(D, v.data() + i * D, values + at);
    }
    parallel_parts(0, S_ * N, 4, [&](int64_t begin, int64_t end) {
      std::vector<float> scores(cache_.max_tokens());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t s = i / N, last = cache_.length(s / T_) + std::min(s % T_ + 1, step_.counts[s / T_]);
        const int64_t first = a.window ? std::max<int64_t>(0, last - *a.window) : 0;
        const int64_t at = (s / T_ * G + i % N / l.queries_per_group) * row + first * D;
        typed_.attend_one(last - first, D, q.data() + i * D, keys + at, values + at, static_cast<float>(a.scale), scores.data(), out.data() + i * D);
      }
    });
    if (l.gate != OutputGate::none) plain_.gate_heads(0, S_, shape, qkv.data(), out.data(), out.data());
    product(*a.linear_proj.weight, out.data(), x.data(), true);
  }

  // x += projection of each token's linear attention.
  void linear_attention(const GatedDeltaNet& net, int64_t index, const std::vector<float>& normed, std::vector<float>& x) {
    const GatedDeltaLayout& l = net.layout;
    const int64_t C = l.channels(), width = l.width(), V = l.value_width(), N = l.value_heads;
    std::vector<float> projected(S_ * width), convolved(S_ * C), out(S_ * V), rstd(S_ * N);
    product(*net.in_proj.weight, normed.data(), projected.data(), false);
    convolve(net, index, projected, convolved);
    parallel_parts(0, B_ * l.key_heads, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) delta_rule(net, index, i / l.key_heads, i % l.key_heads, projected, convolved, out);
    });
    const auto epsilon = static_cast<float>(net.norm.epsilon), offset = static_cast<float>(net.norm.offset);
    plain_.gated_rms_norm(S_, N, l.value_dim, out.data(), projected.data() + C, width, widened(net.out_norm).data(), epsilon, offset, out.data(), rstd.data());
    product(*net.out_proj.weight, out.data(), x.data(), true);
  }

  // One key head of row b, token after token.
  void delta_rule(const GatedDeltaNet& net, int64_t index, int64_t b, int64_t h, const std::vector<float>& projected, const std::vector<float>& convolved,
                  std::vector<float>& out) const {
    const GatedDeltaLayout& l = net.layout;
    const int64_t C = l.channels(), width = l.width(), V = l.value_width(), N = l.value_heads, R = N / l.key_heads, size = R * l.key_dim * l.value_dim;
    std::vector<float> scratch(delta_scratch(R, l.key_dim, l.value_dim));
    const auto state_in = [&](GatedDeltaMemory& memory) { return pointer<float>(memory.state_BNDV) + (b * l.key_heads + h) * size; };
    float* state = state_in(cache_.memory(index));
    if (cache_.length(b) == 0) std::fill_n(state, size, 0.0f);
    const std::span<GatedDeltaMemory> trail = cache_.trail(index, T_);
    for (int64_t t = 0; t < step_.counts[b]; ++t) {
      const int64_t s = b * T_ + t;
      const float *row = convolved.data() + s * C, *gates = projected.data() + s * width + C + V + h * R;
      const float *q = row + h * l.key_dim, *k = q + l.key_heads * l.key_dim, *v = row + 2 * l.key_heads * l.key_dim + h * R * l.value_dim;
      const float *A_log = pointer<float>(net.A_log->value) + h * R, *dt_bias = pointer<float>(net.dt_bias->value) + h * R;
      const DeltaHead<float, float> head{q, k, v, C, gates, gates + N, width, A_log, dt_bias, 1, R, l.key_dim, l.value_dim, nullptr, true};
      delta_kernels<float>().step(head, scratch.data(), out.data() + s * V + h * R * l.value_dim, V, state);
      if (t < static_cast<int64_t>(trail.size())) std::copy_n(state, size, state_in(trail[t]));
    }
  }

  // Each token's inputs join its row's history, and the oldest leave it.
  void convolve(const GatedDeltaNet& net, int64_t index, const std::vector<float>& projected, std::vector<float>& convolved) const {
    const int64_t C = net.layout.channels(), W = net.conv1d->value.size(2), size = (W - 1) * C;
    const auto weight_CW = widened(net.conv1d);
    std::vector<float> weight_WC(weight_CW.size());
    for (int64_t c = 0; c < C; ++c)
      for (int64_t w = 0; w < W; ++w) weight_WC[w * C + c] = weight_CW[c * W + w];
    const std::span<GatedDeltaMemory> trail = cache_.trail(index, T_);
    for (int64_t s = 0; s < S_; ++s) {
      if (!appends(s)) continue;
      float* history = pointer<float>(cache_.memory(index).history_BHC) + s / T_ * size;
      if (place(s) == 0) std::fill_n(history, size, 0.0f);
      const float* input = projected.data() + s * net.layout.width();
      std::vector<const float*> rows;
      for (int64_t w = 0; w + 1 < W; ++w) rows.push_back(history + w * C);
      rows.push_back(input);
      plain_.convolve(C, W, rows.data(), weight_WC.data(), convolved.data() + s * C);
      std::copy_n(history + std::min<int64_t>(1, W - 1) * C, std::max<int64_t>(W - 2, 0) * C, history);
      if (W > 1) std::copy_n(input, C, history + (W - 2) * C);
      if (s % T_ < static_cast<int64_t>(trail.size())) std::copy_n(history, size, pointer<float>(trail[s % T_].history_BHC) + s / T_ * size);
    }
  }

  const Model::State& state_;
  KvCache& cache_;
  const CachedStep& step_;
  const int64_t B_, T_, S_, H_;  // rows, tokens of a row, tokens, hidden size
  const VectorKernels<T>& typed_ = vector_kernels<T>();
  const VectorKernels<float>& plain_ = vector_kernels<float>();
};

}  // namespace

bool can_decode(const Model::State& state, int64_t B, int64_t T) {
  return B * T <= kMostRows && state.groups.tensor->size() == 1 && state.groups.expert_tensor_expert->size() == 1 &&
         has_vector_path(state.embedding.weight->value);
}

CachedPass decode(const Model::State& state, const at::Tensor& tokens_BT, KvCache& cache, const CachedStep& step, std::span<const int64_t> wanted) {
  const at::Tensor tokens = tokens_BT.contiguous();
  return with_vector_type(state.embedding.weight->value,
                          [&]<class T>(T) { return Decoding<T>(state, cache, step).run(tokens.const_data_ptr<int64_t>(), wanted); });
}

CachedPass decode(const Model::State& state, const PredictionLayer& layer, const at::Tensor& tokens_BT, const at::Tensor& hidden_SH, KvCache& cache,
                  const CachedStep& step, std::span<const int64_t> wanted) {
  const at::Tensor tokens = tokens_BT.contiguous(), hidden = hidden_SH.to(at::kFloat).contiguous();
  return with_vector_type(state.embedding.weight->value, [&]<class T>(T) {
    return Decoding<T>(state, cache, step).run(layer, tokens.const_data_ptr<int64_t>(), hidden.const_data_ptr<float>(), wanted);
  });
}

}  // namespace ponte
