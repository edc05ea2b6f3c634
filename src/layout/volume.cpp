// Legend: S tokens of the tensor region, R residual tokens, H hidden, K choices; e bytes of an element.
#include "layout/volume.h"

#include <algorithm>

namespace ponte {
namespace {

struct Sender {
  const VolumeSizes& sizes;
  int64_t hidden;
  double region, residual;  // bytes of the residual stream, whole and as a rank holds it
  int64_t tensor;
  bool sequence_parallel;

  Sender(const VolumeSizes& s, int64_t hidden_size)
      : sizes(s), hidden(hidden_size), region(static_cast<double>(s.activations.tokens() * hidden_size * s.activations.element)),
        residual(static_cast<double>(s.activations.residual_tokens() * hidden_size * s.activations.element)), tensor(s.mesh.tensor),
        sequence_parallel(s.activations.sequence_parallel) {}

  // comm/region.h: into the sharded part and out of it; each is the other's transpose.
  void enter(LayerVolume& out) const {
    if (tensor == 1) return;
    if (sequence_parallel) out.forward.add(GroupKind::tensor, Movement::all_gather, region);
    out.backward.add(GroupKind::tensor, sequence_parallel ? Movement::reduce_scatter : Movement::all_reduce, region);
  }
  void leave(LayerVolume& out) const {
    if (tensor == 1) return;
    out.forward.add(GroupKind::tensor, sequence_parallel ? Movement::reduce_scatter : Movement::all_reduce, region);
    if (sequence_parallel) out.backward.add(GroupKind::tensor, Movement::all_gather, region);
  }
};

// Tokens for heads: q, k, v, the result and its log sums; backward those and the gradients. share: of the rows, what goes to others.
void add_head_exchange(LayerVolume& out, const LocalLayer& layer, const VolumeSizes& sizes, GroupKind group, double share) {
  const double row = static_cast<double>(sizes.activations.tokens() * sizes.activations.element);
  const double queries = row * static_cast<double>(layer.heads_width), keys_values = row * static_cast<double>(2 * layer.keys_width);
  const double log_sums = static_cast<double>(sizes.activations.tokens() * (layer.heads_width / layer.head_dim) * 4);
  out.forward.add(group, Movement::all_to_all, (2 * queries + keys_values + log_sums) * share);
  out.backward.add(group, Movement::all_to_all, (4 * queries + 2 * keys_values + log_sums) * share);
}

// Attention over a sequence that context ranks share.
void add_context(LayerVolume& out, const LocalLayer& layer, const VolumeSizes& sizes) {
  const int64_t ranks = sizes.mesh.context;
  if (ranks == 1) return;
  const double row = static_cast<double>(sizes.activations.tokens() * sizes.activations.element), others = static_cast<double>(ranks - 1);
  if (layer.delta_projection > 0 && sizes.activations.delta_by_heads) {
    const double moved = row * static_cast<double>(layer.delta_projection + layer.delta_values) * others / static_cast<double>(ranks);
    out.forward.add(GroupKind::context, Movement::all_to_all, moved);
    out.backward.add(GroupKind::context, Movement::all_to_all, moved);
    return;
  }
  if (layer.delta_projection > 0) {  // of every chunk: the last inputs of the convolution; the state, and what takes the one before to it
    const double chunks = static_cast<double>(2 * ranks * sizes.activations.sequences);
    const double ends = static_cast<double>(layer.delta_taps * layer.delta_convolution * sizes.activations.element);
    const double states = 4.0 * static_cast<double>(layer.delta_state + layer.delta_heads * layer.delta_key_dim * layer.delta_key_dim);
    out.forward.add(GroupKind::context, Movement::all_gather, chunks * (ends + states));
    out.backward.add(GroupKind::context, Movement::reduce_scatter, chunks * (ends + states));
    return;
  }
  const double keys_values = row * static_cast<double>(2 * layer.keys_width);
  if (sizes.context_type == "p2p") {
    out.forward.add(GroupKind::context, Movement::transfer, keys_values * others);
    out.backward.add(GroupKind::context, Movement::transfer, keys_values * (others + static_cast<double>(ranks)));
  } else if (sizes.context_type == "all_gather") {
    out.forward.add(GroupKind::context, Movement::all_gather, keys_values * static_cast<double>(ranks));
    out.backward.add(GroupKind::context, Movement::all_gather, keys_values * static_cast<double>(ranks));
    out.backward.add(GroupKind::context, Movement::reduce_scatter, keys_values * static_cast<double>(ranks));
  } else if (sizes.context_type == "a2a") {
    add_head_exchange(out, layer, sizes, GroupKind::context, others / static_cast<double>(ranks));
  } else {  // in two levels: a ring passes as many bytes on for fewer heads of more tokens
    const double inner = static_cast<double>(sizes.mesh.context_inner), outer = static_cast<double>(ranks) / inner;
    add_head_exchange(out, layer, sizes, GroupKind::context_inner, (inner - 1) / inner);
    if (outer > 1) {
      out.forward.add(GroupKind::context_outer, Movement::transfer, keys_values * (outer - 1));
      out.backward.add(GroupKind::context_outer, Movement::transfer, keys_values * (2 * outer - 1));
    }
  }
}

// nn/token_dispatcher.h, each expert used evenly. Rows a rank brings: its residual tokens, or, where tensor ranks hold the same ones, its share of them.
void add_experts(LayerVolume& out, const LocalLayer& layer, const Sender& s) {
  const VolumeSizes& z = s.sizes;
  const double expert = static_cast<double>(z.mesh.expert), expert_tensor = static_cast<double>(z.mesh.expert_tensor), ranks = expert * expert_tensor;
  const bool replicated = s.tensor > 1 && !s.sequence_parallel;
  if (ranks == 1 && !replicated) return;
  const double K = static_cast<double>(layer.choices), e = static_cast<double>(z.activations.element), R = static_cast<double>(z.activations.residual_tokens());
  const double own = replicated ? R / static_cast<double>(s.tensor) : R, weights = R * K * 4;
  if (replicated) {
    s.leave(out);
    out.backward.add(GroupKind::tensor, Movement::all_reduce, s.region + weights);
  }
  if (z.all_gather_tokens) {
    const double rows = R * ranks * static_cast<double>(s.hidden) * e, all_weights = R * ranks * K * 4, all_experts = R * ranks * K * 8 + 8 * ranks;
    out.forward.add(GroupKind::expert_tensor_expert, Movement::all_gather, rows + all_weights + all_experts);
    out.forward.add(GroupKind::expert_tensor_expert, Movement::reduce_scatter, rows);
    out.backward.add(GroupKind::expert_tensor_expert, Movement::all_gather, rows);
    out.backward.add(GroupKind::expert_tensor_expert, Movement::reduce_scatter, rows + all_weights);
    return;
  }
  const double row = static_cast<double>(s.hidden) * e, sent = own * K * (expert - 1) / expert, received = own * K,
               experts = static_cast<double>(layer.experts);
  if (expert > 1) {
    out.forward.add(GroupKind::expert, Movement::all_to_all, sent * (2 * row + 4));
    out.backward.add(GroupKind::expert, Movement::all_to_all, sent * (2 * row + 4));
    out.forward.add(GroupKind::expert, Movement::all_gather, expert * experts * 8);
  }
  if (expert_tensor > 1) {
    const double rows = received * expert_tensor;
    out.forward.add(GroupKind::expert_tensor, Movement::all_gather, rows * (row + 4) + expert_tensor * experts * 8);
    out.forward.add(GroupKind::expert_tensor, Movement::reduce_scatter, rows * row);
    out.backward.add(GroupKind::expert_tensor, Movement::reduce_scatter, rows * (row + 4));
    out.backward.add(GroupKind::expert_tensor, Movement::all_gather, rows * row);
  }
}

}  // namespace

std::string_view name_of(Movement movement) {
  switch (movement) {
    case Movement::all_reduce: return "all-reduce";
    case Movement::all_gather: return "all-gather";
    case Movement::reduce_scatter: return "reduce-scatter";
    case Movement::all_to_all: return "all-to-all";
    case Movement::transfer: return "send";
  }
  return "";
}

void Volume::add(GroupKind group, Movement movement, double bytes, bool at_end) {
  if (bytes == 0) return;
  for (VolumeEntry& entry : entries)
    if (entry.group == group && entry.movement == movement && entry.at_end == at_end) {
      entry.bytes += bytes;
      return;
    }
  entries.push_back({group, movement, bytes, at_end});
}

void Volume::add(const Volume& other, double times) {
  for (const VolumeEntry& entry : other.entries) add(entry.group, entry.movement, entry.bytes * times, entry.at_end);
}

double Volume::bytes(GroupKind group, Movement movement) const {
  double sum = 0;
  for (const VolumeEntry& entry : entries)
    if (entry.group == group && entry.movement == movement) sum += entry.bytes;
  return sum;
}

LayerVolume layer_volume(const LocalLayer& layer, const VolumeSizes& sizes, const Recompute& recompute) {
  const Sender s(sizes, layer.hidden);
  LayerVolume mixer, feed_forward;
  s.enter(mixer);
  add_context(mixer, layer, sizes);
  s.leave(mixer);
  if (layer.experts == 0) {
    s.enter(feed_forward);
    s.leave(feed_forward);
  } else {
    add_experts(feed_forward, layer, s);
    if (layer.shared_ffn > 0) {
      s.enter(feed_forward);
      s.leave(feed_forward);
    }
  }
  LayerVolume out = mixer;
  out.forward.add(feed_forward.forward);
  out.backward.add(feed_forward.backward);
  if (layer.experts > 0 ? recompute.moe : recompute.mlp) out.backward.add(feed_forward.forward);
  return out;
}

LayerVolume embedding_volume(int64_t hidden, const VolumeSizes& sizes) {
  LayerVolume out;
  Sender(sizes, hidden).leave(out);
  return out;
}

LayerVolume prediction_volume(int64_t hidden, const VolumeSizes& sizes) {
  LayerVolume out = embedding_volume(hidden, sizes);
  const Sender s(sizes, hidden);
  Sender(sizes, 2 * hidden).enter(out);
  s.leave(out);
  return out;
}

LayerVolume head_volume(int64_t hidden, const VolumeSizes& sizes) {
  LayerVolume out;
  const Sender s(sizes, hidden);
  s.enter(out);
  // Largest logit, sum of exponentials and the label's logit of each token.
  if (s.tensor > 1) out.forward.add(GroupKind::tensor, Movement::all_reduce, static_cast<double>(3 * 4 * sizes.activations.tokens()));
  return out;
}

double message_bytes(int64_t hidden, const ActivationSizes& sizes) { return static_cast<double>(sizes.residual_tokens() * hidden * sizes.element); }

ReplicaSizes replica_sizes(const Config& config, const MeshSizes& mesh, int64_t expert_data) {
  if (sharding_strategy(config) == "no_shard") return {};
  const int64_t copies = config.ddp.num_distributed_optimizer_instances;
  return {mesh.data * mesh.context / copies, expert_data / copies, copies};
}

void add_reduction(Volume& out, GroupKind group, double elements, int64_t ranks, int64_t element, const Config& config, bool at_end) {
  const double others = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  if (config.ddp.grad_reduce_in_fp32 || element == 4) out.add(group, Movement::reduce_scatter, 4 * elements, at_end);
  else out.add(group, Movement::all_to_all, static_cast<double>(element) * elements * others, at_end);
}

Volume step_volume(const WeightCount& weights, const Config& config, const MeshSizes& mesh, int64_t expert_data, int64_t element) {
  Volume out;
  const std::string strategy = sharding_strategy(config);
  const bool nothing = strategy == "no_shard", in_passes = strategy == "optim_grads" || strategy == "optim_grads_params";
  const bool outer = config.ddp.outer_dp_sharding_strategy == "optim";
  const ReplicaSizes shares = replica_sizes(config, mesh, expert_data);
  // Ranks of one model complete what they keep of the gradients.
  const auto kept = [&](int64_t elements) { return 4.0 * static_cast<double>(elements) / static_cast<double>(shares.dense); };
  if (mesh.tensor > 1) out.add(GroupKind::tensor, Movement::all_reduce, kept(weights.summed), true);
  if (mesh.tensor > 1) out.add(GroupKind::tensor, Movement::all_gather, kept(mesh.tensor * weights.with_sharers), true);
  if (mesh.pipeline > 1) out.add(GroupKind::embedding, Movement::all_reduce, kept(weights.tied), true);
  const auto replicas = [&](GroupKind group, GroupKind copies, int64_t all, int64_t ranks, int64_t elements, int64_t value_bytes) {
    if (elements == 0) return;
    const int64_t summing = nothing ? all : ranks;
    const double n = static_cast<double>(elements), share = n / static_cast<double>(ranks);
    if (summing > 1 && !in_passes) add_reduction(out, group, n, summing, value_bytes, config, true);
    if (summing > 1 && strategy != "optim_grads_params") out.add(group, Movement::all_gather, static_cast<double>(nothing ? 4 : value_bytes) * n, true);
    if (shares.copies == 1) return;
    out.add(copies, outer && ranks > 1 ? Movement::reduce_scatter : Movement::all_reduce, 4 * share, true);
    if (outer && ranks > 1) out.add(copies, Movement::all_gather, static_cast<double>(value_bytes) * share, true);
  };
  const int64_t data_context = mesh.data * mesh.context;
  replicas(shares.dense_group(), GroupKind::data_context_copies, data_context, shares.dense, weights.dense, element);
  replicas(shares.dense_group(), GroupKind::data_context_copies, data_context, shares.dense, weights.fp32, 4);
  replicas(shares.expert_group(), GroupKind::expert_data_copies, expert_data, shares.expert, weights.expert, element);
  return out;
}

double wire_bytes(Movement movement, double bytes, int64_t ranks) {
  if (ranks <= 1) return 0;
  const double others = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  switch (movement) {
    case Movement::all_reduce: return 2 * others * bytes;
    case Movement::all_gather:
    case Movement::reduce_scatter: return others * bytes;
    case Movement::all_to_all:
    case Movement::transfer: return bytes;
  }
  return bytes;
}

}  // namespace ponte
