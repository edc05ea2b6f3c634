// Plans for scripts: bytes, seconds and counts as plain numbers.
#include <nlohmann/json.hpp>

#include "cli/plan_screen.h"

namespace ponte {
namespace {

Json memory_json(const MemoryPlan& m) {
  return {{"parameters", m.parameters}, {"gradients", m.gradients},         {"optimizer", m.optimizer}, {"activations", m.activations},
          {"workspace", m.workspace},   {"communication", m.communication}, {"reserved", m.reserved},   {"total", m.total()}};
}

Json volume_json(const Volume& volume, const Plan& plan) {
  Json out = Json::array();
  for (const VolumeEntry& e : volume.entries) {
    const GroupSpan& span = plan.spans[static_cast<size_t>(e.group)];
    out.push_back({{"group", name_of(e.group)},
                   {"ranks", span.ranks},
                   {"ranks_per_node", span.per_node},
                   {"collective", name_of(e.movement)},
                   {"bytes", e.bytes},
                   {"wire_bytes", wire_bytes(e.movement, e.bytes, span.ranks)}});
  }
  return out;
}

Json stage_json(const StagePlan& s, const Plan& plan) {
  Json chunks = Json::array();
  for (const Stage& c : s.chunks)
    chunks.push_back({{"first_layer", c.first_layer},
                      {"layers", c.layers},
                      {"embedding", c.embedding},
                      {"loss", c.loss},
                      {"prediction_layers", c.prediction_layers}});
  return {{"chunks", chunks},
          {"parameters", s.weights.total()},
          {"memory", memory_json(s.memory)},
          {"forward_passes_in_flight", s.in_flight},
          {"logits_bytes", s.logits_bytes},
          {"flops", s.flops},
          {"forward_seconds", s.forward.total()},
          {"backward_seconds", s.backward.total()},
          {"communication", volume_json(s.volume, plan)}};
}

Json layout_json(const Plan& p) {
  return {{"tensor", p.mesh.tensor},       {"context", p.mesh.context},   {"data", p.mesh.data},
          {"pipeline", p.mesh.pipeline},   {"chunks", p.chunks},          {"expert", p.mesh.expert},
          {"expert_tensor", p.mesh.expert_tensor}, {"expert_data", p.expert_data}, {"sequence_parallel", p.config.model.sequence_parallel},
          {"data_parallel_sharding_strategy", sharding_strategy(p.config)}, {"num_distributed_optimizer_instances", p.mesh.optimizer_instances},
          {"micro_batch_size", p.config.train.micro_batch_size}, {"micro_batches", p.micro_batches}};
}

Json machine_json(const Machine& m, const PlanTitle& title) {
  const Efficiencies& e = m.efficiency;
  return {{"gpu", title.gpu},
          {"memory_bytes", m.memory_bytes},
          {"matrix_tflops", m.gpu.matrix_tflops},
          {"memory_tb_per_s", m.gpu.memory_tb_per_s},
          {"link_gb_per_s", m.gpu.link_gb_per_s},
          {"network_gb_per_s", m.network_gb_per_s},
          {"gpus_per_node", m.per_node},
          {"efficiencies",
           {{"matrix", e.matrix},
            {"experts", e.experts},
            {"half_rows", e.half_rows},
            {"core", e.core},
            {"memory", e.memory},
            {"link", e.link},
            {"network", e.network},
            {"overlap", e.overlap}}}};
}

}  // namespace

Json plan_json(const Plan& p, const Machine& machine, const PlanTitle& title) {
  Json stages = Json::array();
  for (const StagePlan& s : p.stages) stages.push_back(stage_json(s, p));
  const StepSeconds& t = p.seconds;
  return {{"model", title.model},
          {"gpus", p.ranks},
          {"layout", layout_json(p)},
          {"fits", static_cast<double>(p.memory().total()) <= machine.memory_bytes},
          {"fullest_stage", p.fullest},
          {"memory", memory_json(p.memory())},
          {"parameters", p.parameters},
          {"active_parameters", p.active_parameters},
          {"flops_per_token", p.flops_per_token},
          {"flops_per_step", p.flops_per_step},
          {"tokens_per_step", p.tokens_per_step},
          {"bubble", p.bubble},
          {"step_seconds", t.total()},
          {"seconds",
           {{"compute", t.compute},
            {"memory", t.memory},
            {"communication", t.communication},
            {"bubble", t.bubble},
            {"replicas", t.replicas},
            {"optimizer", t.optimizer}}},
          {"tokens_per_second", p.tokens_per_second()},
          {"flops_per_second_per_gpu", p.flops_per_second_per_rank()},
          {"stages", stages},
          {"machine", machine_json(machine, title)}};
}

Json search_json(const SearchResult& result, const Config& from, int64_t ranks, const Machine& machine, const PlanTitle& title) {
  Json best = Json::array(), rejected = Json::array();
  for (const Plan& p : result.best)
    best.push_back({{"layout", layout_json(p)}, {"step_seconds", p.seconds.total()}, {"tokens_per_second", p.tokens_per_second()}, {"bubble", p.bubble},
                    {"memory", memory_json(p.memory())}, {"overrides", overrides_of(p, from)}});
  for (const Rejection& r : result.rejected) rejected.push_back({{"layout", r.layout.text()}, {"kind", r.kind}, {"reason", r.reason}});
  return {{"model", title.model},
          {"gpus", ranks},
          {"tried", result.tried},
          {"fitting", result.fitting},
          {"best", best},
          {"rejected", rejected},
          {"machine", machine_json(machine, title)}};
}

}  // namespace ponte
