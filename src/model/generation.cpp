// The cached forward pass: many tokens at once (prompts), or one token a row, where the CPU reads every weight once at the speed of memory.
#include <ATen/ATen.h>

#include <numeric>

#include "base/errors.h"
#include "model/cached_pass.h"
#include "model/decode.h"
#include "model/kv_cache.h"
#include "model/state.h"

namespace ponte {
namespace {

using Step = CachedStep;

std::vector<int64_t> checked_counts(const at::Tensor& tokens_BT, const KvCache& cache, std::span<const int64_t> token_counts) {
  const int64_t B = tokens_BT.size(0), T = tokens_BT.size(1);
  PONTE_ASSERT(B == cache.rows() && (token_counts.empty() || static_cast<int64_t>(token_counts.size()) == B));
  std::vector<int64_t> counts(B, T);
  for (int64_t b = 0; b < B; ++b) {
    if (!token_counts.empty()) counts[b] = token_counts[b];
    PONTE_ASSERT(counts[b] >= 0 && counts[b] <= T);
    require(cache.length(b) + counts[b] <= cache.max_tokens(), "generation: row {} needs {} tokens of cache, it has room for {}", b,
            cache.length(b) + counts[b], cache.max_tokens());
  }
  return counts;
}

at::Tensor positions_of(const KvCache& cache, int64_t B, int64_t T) {
  const at::Tensor past = at::tensor(cache.lengths(), at::kLong).unsqueeze(1);
  return (past + at::arange(T, at::kLong).unsqueeze(0)).reshape({B * T});
}

// Appends the new keys and values and attends over everything cached, row by row: [B, T, N * D].
at::Tensor attend(const SelfAttention& layer, const QkvResult& heads, at::Tensor& keys, at::Tensor& values, const KvCache& cache, const Step& step) {
  at::Tensor out = at::zeros({step.B, step.T, layer.layout.heads() * layer.layout.head_dim}, heads.q_BNTD.options());
  for (int64_t b = 0; b < step.B; ++b) {
    const int64_t past = cache.length(b), count = step.counts[b];
    if (count == 0) continue;
    keys[b].narrow(1, past, count).copy_(heads.k_BGTD[b].narrow(1, 0, count));
    values[b].narrow(1, past, count).copy_(heads.v_BGTD[b].narrow(1, 0, count));
    const at::Tensor q = heads.q_BNTD.narrow(0, b, 1).narrow(2, 0, count).contiguous();
    const at::Tensor k = keys.narrow(0, b, 1).narrow(2, 0, past + count), v = values.narrow(0, b, 1).narrow(2, 0, past + count);
    const AttentionResult result = attention(q, k, v, causal_ranges(1, count, past, layer.window, {}), layer.scale);
    out[b].narrow(0, 0, count).copy_(result.out_BTND.view({count, -1}));
  }
  return out.view({step.B * step.T, -1});
}

at::Tensor mix(const SelfAttention& a, const at::Tensor& qkv_SW, int64_t layer, KvCache& cache, const Step& step) {
  const auto value = [](const Parameter* p) { return p ? p->value : at::Tensor(); };
  const QkvResult heads = split_qkv(qkv_SW, {a.layout, step.B, step.T, value(a.q_layernorm), value(a.k_layernorm), a.norm.epsilon, a.norm.offset,
                                             step.angles.cos_SR, step.angles.sin_SR});
  const at::Tensor out_SV = attend(a, heads, cache.keys(layer), cache.values(layer), cache, step);
  return a.layout.gate == OutputGate::none ? out_SV : gate_heads(out_SV, qkv_SW, a.layout);
}

// One row goes on from its memory; token by token where the way back is wanted.
at::Tensor go_on(const GatedDeltaNet& net, const at::Tensor& projected_TW, GatedDeltaMemory& memory, std::span<GatedDeltaMemory> trail, int64_t row,
                 GatedDeltaNet::Start start) {
  if (trail.empty()) return net.core_from(projected_TW, memory, row, start);
  std::vector<at::Tensor> out;
  for (int64_t t = 0; t < projected_TW.size(0); ++t) {
    out.push_back(net.core_from(projected_TW.narrow(0, t, 1), memory, row, t == 0 ? start : GatedDeltaNet::Start::continued));
    if (t == static_cast<int64_t>(trail.size())) break;  // the last
    trail[t].history_BHC[row].copy_(memory.history_BHC[row]);
    trail[t].state_BNDV[row].copy_(memory.state_BNDV[row]);
  }
  return at::cat(out);
}

// Row by row, so that padding never enters a state.
at::Tensor mix(const GatedDeltaNet& net, const at::Tensor& projected_SW, int64_t layer, KvCache& cache, const Step& step) {
  at::Tensor out_SV = at::zeros({step.B * step.T, net.layout.value_width()}, projected_SW.options());
  for (int64_t b = 0; b < step.B; ++b) {
    if (step.counts[b] == 0) continue;
    const auto start = cache.length(b) == 0 ? GatedDeltaNet::Start::fresh : GatedDeltaNet::Start::continued;
    const auto tokens = [&](const at::Tensor& t) { return t.narrow(0, b * step.T, step.counts[b]); };
    tokens(out_SV).copy_(go_on(net, tokens(projected_SW), cache.memory(layer), cache.trail(layer, step.T), b, start));
  }
  return out_SV;
}

// Between neighbouring stages of a pipeline.
void pass(Group& pipeline, Transfer::Direction direction, int64_t peer, const at::Tensor& tensor) {
  const Transfer message[] = {{direction, peer, tensor}};
  pipeline.transfer(message)->wait();
}

at::Tensor wanted_rows(const at::Tensor& x_SH, const Step& step, Logits wanted) {
  if (wanted == Logits::every_token) return x_SH;
  return x_SH.index_select(0, at::tensor(last_tokens(step), at::kLong).to(x_SH.device(), /*non_blocking=*/true));
}

}  // namespace

std::vector<int64_t> last_tokens(const CachedStep& step) {
  std::vector<int64_t> out;
  for (int64_t b = 0; b < step.B; ++b) out.push_back(b * step.T + std::max<int64_t>(step.counts[b] - 1, 0));
  return out;
}

CachedStep cached_step(const Model::State& state, const at::Tensor& tokens_BT, const KvCache& cache, std::span<const int64_t> token_counts) {
  CachedStep step{tokens_BT.size(0), tokens_BT.size(1), checked_counts(tokens_BT, cache, token_counts), {}};
  step.angles = state.rotary(positions_of(cache, step.B, step.T), state.options.device);
  return step;
}

at::Tensor run_layer(const DecoderLayer& layer, const at::Tensor& x_SH, int64_t index, KvCache& cache, const Step& step) {
  const at::Tensor projected_SW = layer.mixer.project(layer.mixer_norm(x_SH));
  const auto& either = static_cast<const SequenceMixer::variant&>(layer.mixer);
  const at::Tensor y_SH = x_SH + layer.mixer.finish(std::visit([&](const auto& mixer) { return mix(mixer, projected_SW, index, cache, step); }, either));
  return y_SH + layer.mlp(layer.mlp_norm(y_SH), nullptr);
}

namespace {

// Each stage runs its layers on what the one before hands on; the last one's logits go to all.
CachedPass pass_through_stages(const Model::State& s, const at::Tensor& tokens_BT, KvCache& cache, const Step& step, Logits wanted) {
  Group& pipeline = *s.groups.pipeline;
  const int64_t rows = step.B * step.T, last = pipeline.size() - 1;
  const auto options = at::TensorOptions(s.options.device).dtype(s.options.dtype);
  at::Tensor x_SH;
  if (s.stage.embedding) {
    x_SH = s.embedding(tokens_BT.reshape({-1}).to(s.options.device, /*non_blocking=*/true));
  } else {
    x_SH = at::empty({rows, s.config.hidden_size}, options);
    pass(pipeline, Transfer::Direction::receive, pipeline.rank() - 1, x_SH);
  }
  for (size_t i = 0; i < s.decoder.layers.size(); ++i) x_SH = run_layer(s.decoder.layers[i], x_SH, static_cast<int64_t>(i), cache, step);
  CachedPass out;
  if (s.stage.loss) {
    out.hidden_SH = s.final_norm(x_SH);
    out.logits = s.loss_head.logits(wanted_rows(out.hidden_SH, step, wanted));
  } else {
    pass(pipeline, Transfer::Direction::send, pipeline.rank() + 1, x_SH.contiguous());
    out.logits = at::empty({wanted == Logits::every_token ? rows : step.B, s.config.vocab_size}, options.dtype(at::kFloat));
  }
  out.logits = out.logits.contiguous();
  pipeline.broadcast(out.logits, last);
  return out;
}

}  // namespace

CachedPass cached_pass(const Model::State& s, const at::Tensor& tokens_BT, KvCache& cache, std::span<const int64_t> token_counts, Logits wanted) {
  require(s.groups.context->size() == 1, "generation: not over context-parallel ranks");
  require(!s.config.sequence_parallel || s.groups.tensor->size() == 1, "generation: sequence_parallel must be off");
  check_token_ids(tokens_BT, s.config.vocab_size);
  const CachedStep step = cached_step(s, tokens_BT, cache, token_counts);
  CachedPass out;
  if (s.stage.embedding && s.stage.loss && can_decode(s, step.B, step.T)) {
    std::vector<int64_t> rows = last_tokens(step);
    if (wanted == Logits::every_token) {
      rows.resize(step.B * step.T);
      std::iota(rows.begin(), rows.end(), int64_t{0});
    }
    out = decode(s, tokens_BT, cache, step, rows);
  } else {
    out = pass_through_stages(s, tokens_BT, cache, step, wanted);
  }
  if (wanted == Logits::every_token) out.logits = out.logits.view({step.B, step.T, -1});
  for (int64_t b = 0; b < step.B; ++b) cache.advance(b, step.counts[b]);
  return out;
}

at::Tensor Model::forward(const at::Tensor& tokens_BT, KvCache& cache, std::span<const int64_t> token_counts, Logits wanted) {
  c10::InferenceMode inference;
  return cached_pass(*state_, tokens_BT, cache, token_counts, wanted).logits;
}

}  // namespace ponte
