// Legend: R residual tokens, S tokens of the tensor region, P rows of experts, H hidden; e bytes of an element, 4 of a statistic, 8 of an index.
#include "layout/memory_activations.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr int64_t kRanges = 32;         // partial sums of a norm's weight gradient (kernels/dispatch.h)
constexpr int64_t kAttentionTile = 64;  // keys and values are packed in whole tiles, fp32 (kernels/vector.h)
constexpr int64_t kLogitBytes = 128 << 20;  // logits alive at once (nn/loss_head.cpp)

struct Bytes {
  const LocalLayer& layer;
  const ActivationSizes& sizes;
  int64_t S, R, e;
  int64_t hidden_S, hidden_R;  // a row of the residual stream for each token, in the region and outside
  int64_t norm_partials;
  bool tensor;                 // more than one tensor-parallel rank
  bool gathered;               // sequence parallel: what enters the region is a new tensor

  Bytes(const LocalLayer& l, const ActivationSizes& s)
      : layer(l), sizes(s), S(s.tokens()), R(s.residual_tokens()), e(s.element), hidden_S(S * l.hidden * e), hidden_R(R * l.hidden * e),
        norm_partials(kRanges * l.hidden * 4), tensor(s.tensor > 1), gathered(s.tensor > 1 && s.sequence_parallel) {}

  int64_t rows(int64_t width) const { return S * width * e; }
  // bf16 and fp16: a weight gradient's product exists before it is added to the fp32 gradient.
  int64_t product(int64_t elements) const { return e == 2 ? elements * 2 : 0; }
  // Leaving the region, the partial sums stand beside what becomes of them.
  int64_t left() const { return tensor ? hidden_S + hidden_R : hidden_S; }
  // The gradient that enters a projection out of the region: gathered first, where tokens are sharded.
  int64_t entering_gradient() const { return gathered ? hidden_S : 0; }
  // The gradient of what entered the region, and its sum over ranks.
  int64_t leaving_gradient() const { return hidden_S + (tensor ? hidden_R : 0); }
};

TapeStep norm_step(const Bytes& b) {
  const int64_t kept = b.hidden_R + 4 * b.R;
  return {kept, kept + b.hidden_R, 3 * b.hidden_R + b.norm_partials};
}

// A projection into the region, of a normed row that only it keeps; `keeps_input` false: another step counted it.
TapeStep entering_projection(const Bytes& b, int64_t width, bool keeps_input) {
  const int64_t output = b.rows(width), kept = keeps_input ? b.hidden_S : 0;
  const int64_t normed = b.gathered || !keeps_input ? b.hidden_R : 0;
  return {kept, kept + normed + output, b.hidden_R + output + std::max(b.product(width * b.layer.hidden), b.leaving_gradient())};
}

// A projection out of the region of `width` columns, and the sum with the residual stream. Its input is kept by whoever made it.
TapeStep leaving_projection(const Bytes& b, int64_t width, int64_t kept) {
  return {kept, kept + b.left() + b.hidden_R, b.hidden_R + b.entering_gradient() + std::max(b.product(width * b.layer.hidden), b.rows(width))};
}

TapeStep as_step(const Tape& tape, int64_t input_bytes) { return recomputed(std::span(&tape, 1), input_bytes); }

// Head norms, rotation and attention as one node.
TapeStep core_step(const Bytes& b) {
  const LocalLayer& l = b.layer;
  const int64_t heads = l.heads_width / l.head_dim, groups = l.keys_width / l.head_dim;
  const int64_t q = b.rows(l.heads_width), kv = 2 * b.rows(l.keys_width), gate = l.output_gate ? q : 0, packed_projection = b.rows(l.projection);
  const int64_t statistics = b.S * 4 * ((l.head_norms ? heads + groups : 0) + heads), ranges = 16 * b.S;
  const int64_t kept = packed_projection + q + kv + q + gate + statistics;
  const int64_t tiles = (b.sizes.length + kAttentionTile - 1) / kAttentionTile;
  const int64_t packed = b.sizes.sequences * groups * 2 * tiles * kAttentionTile * l.head_dim * 4;
  // The heads' gradient in; queries', keys' and values' out of attention; the packed projection's.
  return {kept, kept + packed + ranges, b.hidden_R + ranges + q + (q + kv) + packed_projection + gate};
}

// Convolution, recurrence and gated norm as one node; the convolution is done again in backward. Over context ranks by heads: whole rows of a share of the
// heads, as many elements as a share of the rows.
TapeStep delta_step(const Bytes& b) {
  const LocalLayer& l = b.layer;
  const int64_t projected = b.rows(l.delta_projection), convolved = b.rows(l.delta_convolution), values = b.rows(l.delta_values);
  const int64_t kept = projected + values + b.S * l.delta_heads * 4, states = b.sizes.sequences * l.delta_state * 4;
  return {kept, kept + convolved + std::max(states, values), b.hidden_R + 2 * values + projected + 2 * convolved};
}

// By chunks: each part a node of its own, values widened by the key dim, the linear part in fp32.
TapeStep delta_chunks_step(const Bytes& b) {
  const LocalLayer& l = b.layer;
  const int64_t projected = b.rows(l.delta_projection), convolved = b.rows(l.delta_convolution), values = b.rows(l.delta_values);
  const int64_t linear = b.rows(l.delta_heads * l.delta_key_dim), wide = b.S * l.delta_heads * l.delta_key_dim * 4;
  const int64_t states = 2 * b.sizes.context * b.sizes.sequences * (l.delta_state + l.delta_heads * l.delta_key_dim * l.delta_key_dim) * 4;
  const int64_t kept = projected + 2 * convolved + linear + (values + linear) + wide + values + states + b.S * l.delta_heads * 4;
  return {kept, kept + convolved + linear + values, b.hidden_R + 2 * values + projected + 2 * (convolved + linear) + wide};
}

void add_mixer(Tape& tape, const Bytes& b, const Recompute& recompute) {
  const LocalLayer& l = b.layer;
  const bool delta = l.delta_projection > 0;
  const int64_t projection = delta ? l.delta_projection : l.projection, width = delta ? l.delta_values : l.heads_width;
  tape.push_back(entering_projection(b, projection, true));
  const TapeStep core = !delta ? core_step(b) : b.sizes.context == 1 || b.sizes.delta_by_heads ? delta_step(b) : delta_chunks_step(b);
  // What the output projection takes is kept by it, unless the core keeps that very tensor.
  const bool apart = delta || recompute.core_attention;
  tape.push_back(recompute.core_attention ? as_step({core}, b.rows(projection)) : core);
  tape.push_back(leaving_projection(b, width, apart ? b.rows(width) : 0));
}

Tape gated_mlp_tape(const Bytes& b, int64_t ffn, bool keeps_input) {
  const int64_t gate_up = b.rows(2 * ffn), act = b.rows(ffn);
  Tape tape;
  tape.push_back(entering_projection(b, 2 * ffn, keeps_input));
  tape.push_back({gate_up, gate_up + act, b.hidden_R + act + gate_up});
  tape.push_back(leaving_projection(b, ffn, act));
  return tape;
}

void append(Tape& tape, const Tape& more) { tape.insert(tape.end(), more.begin(), more.end()); }

// Scores of every expert, the choices and their weights.
TapeStep router_step(const Bytes& b) {
  const int64_t E = b.layer.experts, K = b.layer.choices;
  const int64_t wide = b.e == 2 ? b.R * b.layer.hidden * 4 : 0;  // the router computes in fp32
  const int64_t scores = b.R * E * 4, kept = b.hidden_R + scores + b.R * K * (8 + 8 + 4);
  return {kept, kept + std::max(wide, scores) + 2 * scores, 3 * b.hidden_R + wide + 3 * scores};
}

Tape experts_tape(const Bytes& b) {
  const LocalLayer& l = b.layer;
  const auto P = static_cast<int64_t>(b.sizes.expert_rows);
  const auto rows = [&](int64_t width) { return P * width * b.e; };
  const int64_t x = rows(l.hidden), gate_up = rows(2 * l.expert_ffn), act = rows(l.expert_ffn), indices = 2 * P * 8 + b.R * l.choices * 8;
  // Rows that come from other ranks are copied once before they are sorted by expert, and once on the way back.
  const int64_t sent = b.sizes.expert_ranks > 1 ? b.R * l.choices * l.hidden * b.e : 0;
  Tape tape;
  const int64_t kept = x + P * 4 + gate_up + indices;
  const int64_t product = b.product(2 * l.expert_ffn * l.hidden);
  tape.push_back({kept, kept + std::max(sent, act + x), b.hidden_R + x + gate_up + act + std::max({act, product, x}) + sent});
  tape.push_back({P * 8, P * 8 + x + sent + b.hidden_R, b.hidden_R + x + sent});
  return tape;
}

Tape moe_tape(const Bytes& b) {
  const LocalLayer& l = b.layer;
  Tape tape;
  tape.push_back(router_step(b));
  append(tape, experts_tape(b));
  if (l.shared_ffn == 0) return tape;
  // The experts' result waits.
  Tape shared = gated_mlp_tape(b, l.shared_ffn, b.gathered);
  for (TapeStep& step : shared) step.forward += b.hidden_R, step.backward += b.hidden_R;
  append(tape, shared);
  const int64_t gate = b.hidden_R + 8 * b.R;
  if (l.shared_gate) tape.push_back({gate, gate + 2 * b.hidden_R, 3 * b.hidden_R});
  return tape;
}

void add_feed_forward(Tape& tape, const Bytes& b, const Recompute& recompute) {
  const bool sparse = b.layer.experts > 0;
  const Tape part = sparse ? moe_tape(b) : gated_mlp_tape(b, b.layer.ffn, true);
  if (!(sparse ? recompute.moe : recompute.mlp)) return append(tape, part);
  // What the part keeps first is its input.
  Tape inner = part;
  const int64_t input = std::min(inner[0].kept, b.hidden_R);
  inner[0].kept -= input;
  tape.push_back(as_step(inner, b.hidden_R));
}

}  // namespace

int64_t kept_bytes(const Tape& tape) {
  int64_t sum = 0;
  for (const TapeStep& step : tape) sum += step.kept;
  return sum;
}

int64_t forward_peak(const Tape& tape) {
  int64_t before = 0, peak = 0;
  for (const TapeStep& step : tape) {
    peak = std::max(peak, before + step.forward);
    before += step.kept;
  }
  return peak;
}

int64_t backward_peak(const Tape& tape) {
  int64_t kept = 0, peak = 0;
  for (const TapeStep& step : tape) {
    kept += step.kept;
    peak = std::max(peak, kept + step.backward);
  }
  return peak;
}

TapeStep recomputed(std::span<const Tape> tapes, int64_t input_bytes) {
  TapeStep out{input_bytes, 0, 0};
  Tape whole;
  for (const Tape& tape : tapes) {
    // Without autograd nothing of earlier layers is left.
    out.forward = std::max(out.forward, input_bytes + forward_peak(tape));
    append(whole, tape);
  }
  // The input, kept already, is also what the first layer keeps.
  out.backward = std::max(forward_peak(whole), backward_peak(whole));
  return out;
}

Recompute recompute_of(const ModelConfig& c) {
  Recompute out;
  out.layers = c.recompute_num_layers;
  if (c.recompute_granularity == "full") {
    require(out.layers >= 1, "model.recompute_num_layers: {}, wanted at least 1", out.layers);
    require(c.recompute_method == "block" || c.recompute_method == "uniform",
            "model.recompute_method: '{}', wanted uniform or block for full recompute", c.recompute_method);
    out.full = c.recompute_method == "block" ? Recompute::Full::block : Recompute::Full::uniform;
  }
  if (c.recompute_granularity != "selective") return out;
  const auto has = [&](std::string_view module) { return std::ranges::find(c.recompute_modules, module) != c.recompute_modules.end(); };
  out.core_attention = has("core_attn");
  out.mlp = has("mlp");
  out.moe = has("moe");
  out.norms = has("layernorm");
  return out;
}

std::vector<int64_t> recomputed_stretches(const Recompute& recompute, int64_t layers) {
  if (recompute.full == Recompute::Full::none) return {};
  PONTE_ASSERT(recompute.layers >= 1);
  if (recompute.full == Recompute::Full::block) return std::vector<int64_t>(static_cast<size_t>(std::min(recompute.layers, layers)), 1);
  std::vector<int64_t> out;
  for (int64_t first = 0; first < layers; first += recompute.layers) out.push_back(std::min(recompute.layers, layers - first));
  return out;
}

Tape layer_tape(const LocalLayer& layer, const ActivationSizes& sizes, const Recompute& recompute) {
  const Bytes b(layer, sizes);
  Tape tape;
  if (layer.prediction) {  // norms of both inputs and the projection of the two side by side
    tape.push_back(norm_step(b));
    tape.push_back(norm_step(b));
    tape.push_back({2 * b.hidden_R, 4 * b.hidden_R, 4 * b.hidden_R});
  }
  // A norm computed again keeps no statistics; its result stays for the projection behind it.
  TapeStep norm = norm_step(b);
  if (recompute.norms) norm.kept -= 4 * b.R;
  tape.push_back(norm);
  add_mixer(tape, b, recompute);
  tape.push_back(norm);
  add_feed_forward(tape, b, recompute);
  return tape;
}

Tape embedding_tape(int64_t hidden, int64_t rotary_dims, const ActivationSizes& sizes) {
  const int64_t S = sizes.tokens(), row = hidden * sizes.element, kept = S * (4 * 8 + 2 * 4) + S * rotary_dims * 4;
  const int64_t output = S * row, left = sizes.tensor > 1 ? sizes.residual_tokens() * row : 0;
  return {{kept, kept + output + left, output + left}};
}

Tape head_tape(int64_t hidden, int64_t vocabulary, const ActivationSizes& sizes) {
  const int64_t S = sizes.tokens(), R = sizes.residual_tokens(), e = sizes.element;
  const int64_t hidden_R = R * hidden * e, hidden_S = S * hidden * e, norm = hidden_R + 4 * R;
  const int64_t at_once = std::max<int64_t>(64, kLogitBytes / (std::max<int64_t>(vocabulary, 1) * e) / 64 * 64);
  const int64_t logits = std::min(at_once, S) * vocabulary * e, product = e == 2 ? vocabulary * hidden * 2 : 0;
  const bool gathered = sizes.tensor > 1 && sizes.sequence_parallel;
  const int64_t losses = 3 * 4 * S;
  Tape tape;
  tape.push_back({norm, norm + hidden_R, 3 * hidden_R + kRanges * hidden * 4});
  tape.push_back(
      {hidden_S, hidden_S + hidden_R + (gathered ? hidden_S : 0) + logits + product + losses, hidden_S + (sizes.tensor > 1 ? hidden_R : 0) + losses});
  return tape;
}

Tape chunk_tape(std::span<const Tape> layers, const Recompute& recompute, int64_t hidden, const ActivationSizes& sizes) {
  Tape out;
  size_t next = 0;
  const int64_t input = sizes.residual_tokens() * hidden * sizes.element;
  for (const int64_t count : recomputed_stretches(recompute, static_cast<int64_t>(layers.size()))) {
    out.push_back(recomputed(layers.subspan(next, static_cast<size_t>(count)), input));
    next += static_cast<size_t>(count);
  }
  for (; next < layers.size(); ++next) append(out, layers[next]);
  return out;
}

}  // namespace ponte
