#include "layout/plan.h"

#include <algorithm>
#include <functional>

#include "base/errors.h"
#include "layout/unit_exchange.h"
#include "layout/word_embeddings.h"

namespace ponte {
namespace {

constexpr double kOptimizerBytes = 30;           // read and written per element: gradient, main parameter, two moments, the value

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t element_bytes(const ModelConfig& c) { return dtype_bytes(c.params_dtype); }

// What every layer of a plan has in common.
struct Layout {
  const Config& config;
  const ModelLayers& layers;
  const Machine& machine;
  LayerShards shards;
  VolumeSizes volumes;
  PipelineSizes pipeline;
  CostContext cost;
  ReplicaSizes replicas;
  const ActivationSizes& sizes() const { return volumes.activations; }
  const Recompute& recompute() const { return cost.recompute; }
};

ActivationSizes activation_sizes(const Config& c, const MeshSizes& mesh) {
  ActivationSizes out;
  out.sequences = c.train.micro_batch_size;
  out.length = c.model.seq_length / mesh.context;
  out.element = element_bytes(c.model);
  out.tensor = mesh.tensor;
  out.context = mesh.context;
  out.delta_by_heads = c.model.cp_comm_type == "a2a";
  out.sequence_parallel = c.model.sequence_parallel;
  out.expert_ranks = mesh.expert * mesh.expert_tensor;
  // Every tensor-parallel rank brings a part of the tokens, its own or its share of those all of them hold.
  const double own = static_cast<double>(out.tokens()) / static_cast<double>(mesh.tensor);
  out.expert_rows = own * static_cast<double>(c.model.moe_router_topk * mesh.expert_tensor);
  return out;
}

// One chunk of layers on one rank.
struct ChunkPlan {
  Tape tape;
  WeightCount weights;
  PassSeconds forward, backward;
  Volume volume;          // of one micro-batch
  double flops = 0;       // forward, of one micro-batch
  int64_t logits = 0;
  ChunkUnits units;
};

struct ChunkBuilder {
  const Layout& at;
  ChunkPlan out;
  std::vector<Tape> tapes;
  std::vector<LayerVolume> volumes;
  std::vector<const LocalLayer*> locals;

  void layer(const LocalLayer& local) {
    tapes.push_back(layer_tape(local, at.sizes(), at.recompute()));
    volumes.push_back(layer_volume(local, at.volumes, at.recompute()));
    locals.push_back(&local);
    out.weights = out.weights + local.weights;
    (local.prediction ? out.units.prediction : out.units.layers).push_back(local.weights);
    out.flops += static_cast<double>(at.sizes().tokens()) * local.flops.total() +
                 static_cast<double>(at.sizes().residual_tokens()) * local.replicated_flops.total() + at.sizes().expert_rows * local.expert_flops;
  }
  // A parameter outside the layers.
  void outside(const Rule& rule, WeightCount& unit) {
    WeightCount own;
    (at.layers.all_trained() ? own.dense : own.base) = local_elements(rule, at.shards.tensor);
    out.weights = out.weights + own;
    unit = unit + own;
  }
  void exchange(const LayerVolume& volume) {
    out.volume.add(volume.forward);
    out.volume.add(volume.backward);
    out.forward.communication += volume_seconds(volume.forward, at.cost);
    out.backward.communication += volume_seconds(volume.backward, at.cost);
  }
  void append(const Tape& tape) { out.tape.insert(out.tape.end(), tape.begin(), tape.end()); }
  // Times and volumes of the collected layers; the first `again` of them run twice.
  void close_layers(int64_t again) {
    for (size_t i = 0; i < locals.size(); ++i) {
      const bool twice = static_cast<int64_t>(i) < again;
      LayerVolume volume = volumes[i];
      if (twice) volume.backward.add(volume.forward);
      out.volume.add(volume.forward);
      out.volume.add(volume.backward);
      const LayerSeconds time = layer_seconds(*locals[i], at.sizes(), tapes[i], volumes[i], at.cost, twice, at.layers.all_trained());
      out.forward = out.forward + time.forward;
      out.backward = out.backward + time.backward;
    }
    tapes.clear(), volumes.clear(), locals.clear();
  }
  void head() {
    const ModelLayers& m = at.layers;
    const int64_t H = m.config.hidden_size, e = at.sizes().element;
    const Rule& rule = m.output ? *m.output : *m.embedding;
    const int64_t elements = local_elements(rule, at.shards.tensor), columns = elements / H;
    const Tape tape = head_tape(H, columns, at.sizes());
    append(tape);
    exchange(head_volume(H, at.volumes));
    const double flops = 2.0 * static_cast<double>(at.sizes().tokens()) * static_cast<double>(elements);
    out.flops += flops;
    const double once = matrix_seconds(flops, e, at.machine.efficiency.matrix, at.machine);
    // Loss and its gradient, the weight's included, are computed in the forward pass.
    out.forward.compute += (m.all_trained() ? 3 : 2) * once;
    out.logits = std::max(out.logits, tape.back().forward - tape.back().kept);
  }
};

ChunkPlan plan_chunk(const Layout& at, const Stage& stage, const std::function<const LocalLayer&(size_t)>& local) {
  ChunkBuilder b{at, {}, {}, {}, {}};
  const ModelLayers& m = at.layers;
  b.out.units.has_embedding = stage.embedding;
  b.out.units.has_head = stage.loss;
  b.out.units.tied = !m.output;
  b.out.units.recomputed_stretches = recomputed_stretches(at.recompute(), stage.layers);
  const int64_t H = m.config.hidden_size;
  if (stage.embedding) {
    b.append(embedding_tape(H, static_cast<int64_t>(static_cast<double>(m.config.kv_channels) * m.config.rotary_percent), at.sizes()));
    b.exchange(embedding_volume(H, at.volumes));
    b.outside(*m.embedding, b.out.units.embedding);
    if (m.all_trained() && has_two_embeddings(m.config) && !stage.loss) b.out.weights.tied += local_elements(*m.embedding, at.shards.tensor);
  }
  for (int64_t i = 0; i < stage.layers; ++i) b.layer(local(m.decoder[static_cast<size_t>(stage.first_layer + i)]));
  int64_t again = 0;
  for (const int64_t n : recomputed_stretches(at.recompute(), stage.layers)) again += n;
  b.append(chunk_tape(b.tapes, at.recompute(), H, at.sizes()));
  b.close_layers(again);
  for (int64_t k = 0; k < stage.prediction_layers; ++k) {
    b.layer(local(m.prediction[static_cast<size_t>(k)]));
    b.append(b.tapes[0]);
    b.close_layers(0);
    b.exchange(prediction_volume(H, at.volumes));
    b.head();
  }
  // What goes to the next stage stays until its gradient comes back.
  const int64_t output = at.sizes().residual_tokens() * H * at.sizes().element;
  if (!stage.loss) b.append({{output, output, output}});
  if (stage.loss) {
    b.head();
    b.outside(*m.final_norm, b.out.units.head);
    if (m.all_trained() && at.shards.tensor.sequence_parallel) b.out.weights.summed += local_elements(*m.final_norm, at.shards.tensor);
    if (m.output) b.outside(*m.output, b.out.units.head);
    if (!stage.embedding && has_two_embeddings(m.config)) {
      b.outside(*m.embedding, b.out.units.embedding);
      if (m.all_trained()) b.out.weights.tied += local_elements(*m.embedding, at.shards.tensor);
    }
  }
  return std::move(b.out);
}

// Walks the rank's schedule: what earlier passes keep, and on top what the running one needs.
void add_activations(StagePlan& out, const std::vector<ChunkPlan>& chunks, const PipelineSizes& pipeline, int64_t rank) {
  std::vector<int64_t> kept, forward, backward;
  for (const ChunkPlan& c : chunks) {
    kept.push_back(kept_bytes(c.tape));
    forward.push_back(forward_peak(c.tape));
    backward.push_back(backward_peak(c.tape));
  }
  int64_t live = 0, held = 0, peak = 0;
  for (const PipelineAction& action : pipeline_schedule(pipeline, rank)) {
    const auto c = static_cast<size_t>(action.chunk);
    const bool is_forward = action.pass == Pass::forward;
    const int64_t before = is_forward ? live : live - kept[c], now = before + (is_forward ? forward[c] : backward[c]);
    if (now > peak) {
      peak = now;
      out.memory.activations = std::min(now, before + kept[c]);
    }
    live = before + (is_forward ? kept[c] : 0);
    held += is_forward ? 1 : -1;
    out.in_flight = std::max(out.in_flight, held);
  }
  out.memory.workspace = peak - out.memory.activations;
}

// Weights, gradients, optimizer state, buckets. A rank's gradients are fp32 whatever the parameters are.
void add_states(StagePlan& out, const std::vector<ChunkUnits>& units, const Config& config, const MeshSizes& mesh, int64_t expert_data,
                const Machine& machine) {
  const int64_t e = element_bytes(config.model), narrow = e < 4;
  const WeightCount& w = out.weights;
  MemoryPlan& m = out.memory;
  const std::string strategy = sharding_strategy(config);
  const ReplicaSizes shares = replica_sizes(config, mesh, expert_data);
  const bool has_shared_values = strategy == "optim_grads_params", has_shared_gradients = has_shared_values || strategy == "optim_grads";
  const auto part = [](int64_t bytes, bool shared, int64_t ranks) { return shared ? ceil_divide(bytes, ranks) : bytes; };
  m.parameters = part((w.dense + w.base) * e + w.fp32 * 4, has_shared_values, shares.dense) + part(w.expert * e, has_shared_values, shares.expert) +
                 w.frozen * 4;
  m.gradients = part((w.dense + w.fp32) * 4, has_shared_gradients, shares.dense) + part(w.expert * 4, has_shared_gradients, shares.expert);
  const int64_t outer = config.ddp.outer_dp_sharding_strategy == "optim" ? shares.copies : 1;
  const auto dividing = [&](int64_t ranks) { return ranks > 1 ? ranks * outer : 1; };
  // Two moments, and an fp32 main parameter where the value is narrower.
  const auto state = [&](int64_t elements, int64_t ranks, bool has_main) { return ceil_divide(elements, dividing(ranks)) * (has_main ? 12 : 8); };
  m.optimizer = state(w.dense, shares.dense, narrow) + state(w.fp32, shares.dense, false) + state(w.expert, shares.expert, narrow);
  // A bucket's parameters on their way back, or its gradients in another type or whole (train/set_up.cpp says how many there are in one).
  const auto bucket = [&](int64_t elements, int64_t ranks) {
    const int64_t most = config.ddp.bucket_size > 0 ? config.ddp.bucket_size : std::max<int64_t>(40'000'000, 1'000'000 * mesh.data * mesh.context);
    const int64_t together = std::min(elements, most);
    if (ranks == 1) return int64_t{0};
    if (strategy == "no_shard") return together * 4;
    return together * (narrow && !config.ddp.grad_reduce_in_fp32 ? 2 * e : e) + ceil_divide(together, ranks) * 4;
  };
  m.communication = std::max(bucket(w.dense, mesh.data * mesh.context), bucket(w.expert, expert_data));
  if (has_shared_gradients && std::max(shares.dense, shares.expert) > 1) {  // units that are together for a while, and those on their way beside them
    const UnitBytes unit = largest_unit(units, e);
    const int64_t values = has_shared_values ? unit.values * (config.ddp.overlap_param_gather ? 2 : 1) : 0;
    const int64_t gradients = unit.gradients * (config.ddp.overlap_grad_reduce ? 2 : 1) + unit.tied_gradients;
    m.communication = values + gradients + (narrow && !config.ddp.grad_reduce_in_fp32 ? unit.gradients / 4 * 2 * e : 0);
  }
  m.reserved = static_cast<int64_t>(machine.efficiency.reserved_gb * 1e9);
  m.reserved += static_cast<int64_t>(machine.efficiency.fragmentation * static_cast<double>(m.total() - m.reserved));
}

void add_messages(StagePlan& out, const Layout& at, const PipelineSplit& split, int64_t rank) {
  if (split.ranks == 1) return;
  const double bytes = message_bytes(at.layers.config.hidden_size, at.sizes());
  const double once = seconds(Movement::transfer, bytes, at.cost.spans[static_cast<size_t>(GroupKind::pipeline)], at.machine);
  const double shown = split.chunks > 1 ? 1 - at.machine.efficiency.overlap : 1;
  for (int64_t chunk = 0; chunk < split.chunks; ++chunk)
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      PipelineMessage message;
      if (!message_out_of(at.pipeline, rank, {pass, 0, chunk}, message)) continue;
      out.volume.add(GroupKind::pipeline, Movement::transfer, bytes);
      (pass == Pass::forward ? out.forward : out.backward).communication += shown * once;
    }
}

StagePlan plan_stage(const Layout& at, const PipelineSplit& split, int64_t rank, int64_t expert_data, const std::function<const LocalLayer&(size_t)>& local) {
  StagePlan out;
  out.chunks = split.of_rank(rank);
  std::vector<ChunkPlan> chunks;
  for (const Stage& stage : out.chunks) {
    chunks.push_back(plan_chunk(at, stage, local));
    const ChunkPlan& c = chunks.back();
    out.weights = out.weights + c.weights;
    out.volume.add(c.volume);
    out.forward = out.forward + c.forward;
    out.backward = out.backward + c.backward;
    out.flops += 3 * c.flops * static_cast<double>(at.pipeline.micro_batches);
    out.logits_bytes = std::max(out.logits_bytes, c.logits);
  }
  add_messages(out, at, split, rank);
  Volume step;
  step.add(out.volume, static_cast<double>(at.pipeline.micro_batches));
  step.add(step_volume(out.weights, at.config, at.volumes.mesh, expert_data, at.sizes().element));
  std::vector<ChunkUnits> units;
  for (const ChunkPlan& c : chunks) units.push_back(c.units);
  step.add(unit_volume(units, at.pipeline, rank, at.config, at.replicas));
  out.volume = std::move(step);
  // Longer schedules hold no more.
  PipelineSizes walked = at.pipeline;
  walked.micro_batches = std::min(walked.micro_batches, 4 * walked.ranks);
  add_activations(out, chunks, walked, rank);
  add_states(out, units, at.config, at.volumes.mesh, expert_data, at.machine);
  return out;
}

// Gradients behind the last backward pass, parameters before the next forward pass; what overlaps hides behind those.
double replica_seconds(const StagePlan& stage, const Layout& at) {
  const DdpConfig& ddp = at.config.ddp;
  double sum = 0;
  for (const VolumeEntry& entry : stage.volume.entries) {
    const ReplicaSizes& shares = at.replicas;
    const bool of_units = entry.group == shares.dense_group() || entry.group == shares.expert_group();
    if (!entry.at_end && !of_units) continue;
    const double alone = seconds(entry.movement, entry.bytes, at.cost.spans[static_cast<size_t>(entry.group)], at.machine);
    const bool parameters = entry.movement == Movement::all_gather;
    const bool hidden = parameters ? ddp.overlap_param_gather : ddp.overlap_grad_reduce;
    const double beside = (parameters ? stage.forward : stage.backward).total() * (entry.at_end ? 1 : static_cast<double>(at.pipeline.micro_batches));
    sum += hidden ? std::max(alone * (1 - at.machine.efficiency.overlap), alone - beside) : alone;
  }
  return sum;
}

}  // namespace

const LocalLayer& Planner::local(size_t layer_class, const LayerShards& s) {
  const std::array<int64_t, 5> key = {static_cast<int64_t>(layer_class), s.tensor.size, s.tensor.sequence_parallel, s.expert_tensor.size, s.expert};
  const auto it = local_.find(key);
  return it != local_.end() ? it->second : local_.emplace(key, local_layer(layers_, layer_class, s)).first->second;
}

// Time nobody works in a step, in units of a chunk's forward and backward pass. Constant once the pipeline is full.
double Planner::idle_passes(const PipelineSizes& sizes) {
  if (sizes.ranks == 1) return 0;
  const PipelineSizes walked{sizes.ranks, sizes.chunks, std::min(sizes.micro_batches, 4 * sizes.ranks)};
  const auto [it, fresh] = idle_.emplace(std::array{walked.ranks, walked.chunks, walked.micro_batches}, 0.0);
  if (fresh) it->second = simulate(walked, 1, 2).time / 3 - static_cast<double>(walked.micro_batches * walked.chunks);
  return it->second;
}

Plan Planner::plan(const Config& config, int64_t ranks) {
  const ModelConfig& model = config.model;
  Plan out;
  out.config = config;
  out.ranks = ranks;
  out.mesh = mesh_sizes(model, ranks, config.dist.use_tp_pp_dp_mapping);
  out.mesh.optimizer_instances = config.ddp.num_distributed_optimizer_instances;
  const Mesh mesh(out.mesh);
  out.expert_data = mesh.expert_data_size();
  out.micro_batches = num_microbatches(config, ranks);
  for (int64_t kind = 0; kind < kGroupKinds; ++kind) out.spans.push_back(span_of(mesh, static_cast<GroupKind>(kind), machine_.per_node));
  const PipelineSplit split = pipeline_split(model);
  out.chunks = split.chunks;

  const Overlaps overlaps{config.comm_overlap.tp_comm_overlap, config.comm_overlap.overlap_moe_expert_parallel_comm};
  const Layout at{config, layers_, machine_, layer_shards(model),
                  {out.mesh, activation_sizes(config, out.mesh), model.cp_comm_type, model.moe_token_dispatcher_type == "allgather"},
                  {split.ranks, split.chunks, out.micro_batches}, {machine_, out.spans, overlaps, recompute_of(model)},
                  replica_sizes(config, out.mesh, out.expert_data)};
  for (int64_t rank = 0; rank < split.ranks; ++rank)
    out.stages.push_back(plan_stage(at, split, rank, out.expert_data, [&](size_t c) -> const LocalLayer& { return local(c, at.shards); }));
  const auto time = [](const StagePlan& s) { return s.forward.total() + s.backward.total(); };
  for (size_t i = 1; i < out.stages.size(); ++i) {
    if (out.stages[i].memory.total() > out.memory().total()) out.fullest = i;
    if (time(out.stages[i]) > time(out.stages[out.slowest])) out.slowest = i;
  }

  const StagePlan& slow = out.stages[out.slowest];
  const double count = static_cast<double>(out.micro_batches), idle = idle_passes(at.pipeline) / static_cast<double>(split.chunks);
  const PassSeconds work = slow.forward + slow.backward;
  out.seconds = {count * work.compute, count * work.memory, count * work.communication, idle * work.total(), replica_seconds(slow, at), 0};
  const double updated = static_cast<double>(slow.memory.optimizer) / (element_bytes(model) < 4 ? 12 : 8);
  out.seconds.optimizer = updated * kOptimizerBytes / (machine_.gpu.memory_tb_per_s * 1e12 * machine_.efficiency.memory);
  out.bubble = idle / (idle + count);
  out.tokens_per_step = static_cast<double>(config.train.global_batch_size * model.seq_length);
  out.flops_per_token = layers_.training_flops_per_token;
  out.flops_per_step = out.flops_per_token * out.tokens_per_step;
  out.parameters = layers_.parameters;
  out.active_parameters = layers_.active_parameters;
  return out;
}

}  // namespace ponte
