#include "layout/cost.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/errors.h"
#include "base/format.h"

namespace ponte {
namespace {

constexpr Accelerator kAccelerators[] = {
    // name, GB, bf16 TFLOP/s, tf32 TFLOP/s, TB/s, link GB/s, per node, network GB/s
    {"a100", 80, 312, 156, 2.04, 300, 8, 25},    {"a800", 80, 312, 156, 2.04, 200, 8, 25},    {"h100", 80, 989, 494, 3.35, 450, 8, 50},
    {"h800", 80, 989, 494, 3.35, 200, 8, 50},    {"h200", 141, 989, 494, 4.8, 450, 8, 50},    {"b200", 180, 2250, 1125, 7.7, 900, 8, 50},
    {"b300", 270, 2250, 1125, 7.7, 900, 8, 100}, {"gb200", 186, 2500, 1250, 8.0, 900, 72, 50}, {"gb300", 278, 2500, 1250, 8.0, 900, 72, 100},
    {"l40s", 48, 362, 183, 0.864, 28, 8, 25},
};

struct Network {
  std::string_view name;
  double gb_per_s;
};
constexpr Network kNetworks[] = {{"xdr800", 100},      {"ndr400", 50},       {"ndr", 50},          {"hdr200", 25},      {"hdr", 25},
                                 {"ethernet400", 50},  {"ethernet200", 25},  {"ethernet100", 12.5}, {"ethernet25", 3.125}, {"ethernet10", 1.25}};

}  // namespace

std::span<const Accelerator> accelerators() { return kAccelerators; }

const Accelerator& find_accelerator(std::string_view name) {
  std::vector<std::string> known;
  for (const Accelerator& a : kAccelerators) {
    if (a.name == name) return a;
    known.emplace_back(a.name);
  }
  const std::string near = nearest(name, known);
  fail("--gpu {}: there are {}{}", name, join(known, ", "), near.empty() ? "" : format("; did you mean {}?", near));
}

double network_gb_per_s(std::string_view text) {
  std::vector<std::string> known;
  for (const Network& n : kNetworks) {
    if (n.name == text) return n.gb_per_s;
    known.emplace_back(n.name);
  }
  double gigabits = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), gigabits);
  require(error == std::errc() && end == text.data() + text.size() && gigabits > 0 && std::isfinite(gigabits),
          "--network {}: wanted Gbit/s for each GPU (400) or one of {}", text, join(known, ", "));
  return gigabits / 8;
}

GroupSpan span_of(const Mesh& mesh, GroupKind kind, int64_t per_node) {
  const std::vector<int64_t> ranks = mesh.group(kind, 0);
  const int64_t near = std::count_if(ranks.begin(), ranks.end(), [&](int64_t r) { return r / per_node == ranks[0] / per_node; });
  return {static_cast<int64_t>(ranks.size()), near};
}

double seconds(Movement movement, double bytes, const GroupSpan& span, const Machine& machine) {
  if (span.ranks <= 1 || bytes == 0) return 0;
  const Efficiencies& e = machine.efficiency;
  const double n = static_cast<double>(span.ranks), near = static_cast<double>(span.per_node), wire = wire_bytes(movement, bytes, span.ranks);
  const bool leaves = span.per_node < span.ranks;
  // Rings enter a node once for all of the group's ranks in it; pairs go each over their own interface.
  const bool pairs = movement == Movement::all_to_all || movement == Movement::transfer;
  const double far_share = movement == Movement::transfer ? 1.0 : (n - near) / (n - 1);
  const double far = leaves ? wire * far_share / (pairs ? 1.0 : near) : 0, inside = near > 1 ? wire * (pairs ? 1 - far_share : 1.0) : 0;
  const double steps = movement == Movement::transfer ? 1 : std::log2(n);
  const double latency = 1e-6 * steps * (leaves ? e.network_latency_us : e.link_latency_us);
  return latency + std::max(far / (machine.network_gb_per_s * 1e9 * e.network), inside / (machine.gpu.link_gb_per_s * 1e9 * e.link));
}

PassSeconds operator+(const PassSeconds& a, const PassSeconds& b) {
  return {a.compute + b.compute, a.memory + b.memory, a.communication + b.communication};
}
PassSeconds operator*(double times, const PassSeconds& a) { return {times * a.compute, times * a.memory, times * a.communication}; }

double matrix_seconds(double flops, int64_t element, double efficiency, const Machine& machine) {
  return flops / ((element == 2 ? machine.gpu.matrix_tflops : machine.gpu.wide_tflops) * 1e12 * efficiency);
}

// Keys and values that go around beside the attention of those that have come.
static bool is_ring(const VolumeEntry& entry) {
  return entry.movement == Movement::transfer && (entry.group == GroupKind::context || entry.group == GroupKind::context_outer);
}

double volume_seconds(const Volume& volume, const CostContext& context, double core_seconds) {
  const double shown = 1 - context.machine.efficiency.overlap;
  double sum = 0;
  for (const VolumeEntry& entry : volume.entries) {
    const double alone = seconds(entry.movement, entry.bytes, context.spans[static_cast<size_t>(entry.group)], context.machine);
    if (entry.group == GroupKind::tensor && context.overlaps.tensor) sum += shown * alone;
    else if (entry.group == GroupKind::expert && context.overlaps.expert) sum += shown * alone;
    else if (is_ring(entry)) sum += std::max(shown * alone, alone - core_seconds);
    else sum += alone;
  }
  return sum;
}

// How well a product of so many rows uses the units.
static double filled(double rows, const Efficiencies& e) { return rows / (rows + e.half_rows); }

LayerSeconds layer_seconds(const LocalLayer& layer, const ActivationSizes& sizes, const Tape& tape, const LayerVolume& volume, const CostContext& context,
                           bool again, bool trained) {
  const Machine& machine = context.machine;
  const Efficiencies& e = machine.efficiency;
  const auto S = static_cast<double>(sizes.tokens()), R = static_cast<double>(sizes.residual_tokens());
  const double dense = matrix_seconds(S * layer.flops.matrix + R * layer.replicated_flops.matrix, sizes.element, e.matrix * filled(S, e), machine);
  const double rows = layer.local_experts > 0 ? sizes.expert_rows / static_cast<double>(layer.local_experts) : 1;
  const double experts = matrix_seconds(sizes.expert_rows * layer.expert_flops, sizes.element, e.experts * filled(rows, e), machine);
  // Chunks of a gated delta net carry the identity beside the state.
  const bool chunks = layer.delta_projection > 0 && sizes.context > 1 && !sizes.delta_by_heads;
  const double widened = chunks ? 1 + static_cast<double>(layer.delta_heads * layer.delta_key_dim) / static_cast<double>(layer.delta_values) : 1;
  const double core = matrix_seconds(widened * S * layer.flops.core, sizes.element, e.core, machine);
  // What is kept is written once and read about once more on the way; the backward pass reads it and moves gradients of its size.
  const double moved = static_cast<double>(kept_bytes(tape)) / (machine.gpu.memory_tb_per_s * 1e12 * e.memory);
  LayerSeconds out;
  out.forward = {dense + experts + core, 2 * moved, volume_seconds(volume.forward, context, core)};
  out.backward = {(trained ? 2 : 1) * (dense + experts) + 2.5 * core, 4 * moved, volume_seconds(volume.backward, context, 2.5 * core)};
  if (again) out.backward = out.backward + out.forward;
  if (context.recompute.core_attention) out.backward.compute += core;
  if (layer.experts > 0 ? context.recompute.moe : context.recompute.mlp) out.backward.compute += layer.experts > 0 ? experts : dense;
  return out;
}

}  // namespace ponte
