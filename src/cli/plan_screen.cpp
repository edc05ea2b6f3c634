#include "cli/plan_screen.h"

#include <algorithm>
#include <cmath>

#include "base/format.h"
#include "base/wrap.h"
#include "layout/plan_search.h"

namespace ponte {
namespace {

double gigabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

std::string grouped(int64_t n) {
  std::string digits = std::to_string(n), out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string bar(double share, int width) {
  const int full = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * width));
  std::string out;
  for (int i = 0; i < width; ++i) out += i < full ? "█" : "░";
  return out;
}

std::string layers_text(const StagePlan& stage) {
  std::string out;
  for (const Stage& chunk : stage.chunks) {
    if (!out.empty()) out += " ";
    if (chunk.embedding) out += "E ";
    if (chunk.layers > 0) out += chunk.layers == 1 ? format("{}", chunk.first_layer) : format("{}-{}", chunk.first_layer, chunk.first_layer + chunk.layers - 1);
    if (chunk.prediction_layers > 0) out += format(" +{} MTP", chunk.prediction_layers);
    if (chunk.loss) out += " L";
  }
  return out;
}

bool alike(const StagePlan& a, const StagePlan& b) {
  const MemoryPlan &x = a.memory, &y = b.memory;
  return x.parameters == y.parameters && x.gradients == y.gradients && x.optimizer == y.optimizer && x.activations == y.activations &&
         x.workspace == y.workspace && a.in_flight == b.in_flight && a.chunks.front().embedding == b.chunks.front().embedding;
}

std::string heading(const Plan& p, const PlanTitle& title) {
  const MeshSizes& m = p.mesh;
  std::string out = format("{}: {} parameters", title.model, human_count(static_cast<double>(p.parameters)));
  if (p.active_parameters < p.parameters) out += format(", {} of them for a token", human_count(static_cast<double>(p.active_parameters)));
  out += format("\n{} GPUs ({}) = tensor {}{} x context {} x data {} x pipeline {}", grouped(p.ranks), title.gpu, m.tensor,
                p.config.model.sequence_parallel ? " (sequence parallel)" : "", m.context, m.data, m.pipeline);
  if (p.chunks > 1) out += format(" with {} chunks each", p.chunks);
  if (p.config.model.num_moe_experts > 0) out += format("; experts: expert {} x tensor {} x data {}", m.expert, m.expert_tensor, p.expert_data);
  const std::string strategy = sharding_strategy(p.config);
  const char* divided = strategy == "optim" ? "the optimizer" : strategy == "optim_grads" ? "optimizer and gradients" : "optimizer, gradients and parameters";
  if (strategy != "no_shard") out += format("; replicas divide {}", divided);
  if (m.optimizer_instances > 1) out += format(" in {} groups", m.optimizer_instances);
  const TrainConfig& t = p.config.train;
  out += format("\nstep: {} sequences x {} tokens, {} micro-batch{} of {} on each replica; {}\n", grouped(t.global_batch_size),
                grouped(p.config.model.seq_length), p.micro_batches, p.micro_batches == 1 ? "" : "es", t.micro_batch_size,
                p.config.model.recompute_granularity.empty() ? "nothing recomputed" : p.config.model.recompute_granularity + " recompute");
  return out;
}

std::string memory_table(const Plan& p, const Machine& machine) {
  const size_t width = std::min<size_t>(28, std::max<size_t>(6, [&] {
    size_t longest = 0;
    for (const StagePlan& s : p.stages) longest = std::max(longest, layers_text(s).size());
    return longest;
  }()));
  std::string out = "\nMemory of a rank, GB\n";
  out += format(" {:>7}  {:" + std::to_string(width) + "} {:>7} {:>9} {:>9} {:>11} {:>10} {:>8} {:>8} {:>7}\n", "stage", "layers", "weights",
                "gradients", "optimizer", "activations", "workspace", "buckets", "reserved", "total");
  for (size_t first = 0; first < p.stages.size();) {
    size_t last = first;
    while (last + 1 < p.stages.size() && alike(p.stages[first], p.stages[last + 1])) ++last;
    const MemoryPlan& m = p.stages[first].memory;
    const std::string stages = first == last ? format("{}", first) : format("{}-{}", first, last);
    std::string layers = first == last ? layers_text(p.stages[first]) : layers_text(p.stages[first]) + " ..";
    if (layers.size() > width) layers = layers.substr(0, width - 2) + "..";
    const bool fullest = p.fullest >= first && p.fullest <= last;
    out += format("{}{:>7}  {:" + std::to_string(width) + "} {:7.2f} {:9.2f} {:9.2f} {:11.2f} {:10.2f} {:8.2f} {:8.2f} {:7.2f}\n",
                  fullest ? ">" : " ", stages, layers, gigabytes(m.parameters), gigabytes(m.gradients), gigabytes(m.optimizer),
                  gigabytes(m.activations), gigabytes(m.workspace), gigabytes(m.communication), gigabytes(m.reserved), gigabytes(m.total()));
    first = last + 1;
  }
  const double share = static_cast<double>(p.memory().total()) / machine.memory_bytes;
  const StagePlan& s = p.stages[p.fullest];
  out += format("\n {}  {:.1f} of {:.1f} GB on stage {}: {}\n", bar(share, 40), gigabytes(p.memory().total()), machine.memory_bytes / 1e9, p.fullest,
                share <= 1 ? "fits" : "DOES NOT FIT");
  out += format(" {} forward pass{} there", s.in_flight, s.in_flight == 1 ? " waits for its backward pass" : "es wait for their backward passes");
  if (s.logits_bytes > 0) out += format("; computing the loss takes {:.2f} GB of its workspace", gigabytes(s.logits_bytes));
  return out + "\n";
}

std::string milliseconds(double seconds) { return seconds >= 10 ? format("{:.2f} s", seconds) : format("{:.1f} ms", seconds * 1000); }

std::string time_table(const Plan& p, const Machine& machine) {
  const StepSeconds& t = p.seconds;
  const double peak = (dtype_bytes(p.config.model.params_dtype) == 2 ? machine.gpu.matrix_tflops : machine.gpu.wide_tflops) * 1e12;
  std::string out = format("\nStep, estimated: {}   {} tokens/s   {} tokens/s/GPU   {:.0f} TFLOP/s/GPU ({:.1f} % of peak)\n", milliseconds(t.total()),
                           grouped(std::llround(p.tokens_per_second())), grouped(std::llround(p.tokens_per_second() / static_cast<double>(p.ranks))),
                           p.flops_per_second_per_rank() / 1e12, 100 * p.flops_per_second_per_rank() / peak);
  const struct {
    const char* name;
    double seconds;
  } rows[] = {{"products and attention", t.compute},      {"memory-bound work", t.memory}, {"communication in passes", t.communication},
              {"pipeline bubble", t.bubble},              {"gradients and parameters", t.replicas}, {"optimizer", t.optimizer}};
  for (const auto& [name, seconds] : rows)
    if (seconds > 0) out += format(" {:25} {:>12}  {} {:4.1f} %\n", name, milliseconds(seconds), bar(seconds / t.total(), 30), 100 * seconds / t.total());
  out += format(" {:.4g} PFLOP a step, {:.4g} GFLOP a token; bubble {:.1f} % of the pipeline's time\n", p.flops_per_step / 1e15,
                p.flops_per_token / 1e9, 100 * p.bubble);
  return out;
}

std::string volume_table(const Plan& p) {
  const StagePlan& stage = p.stages[p.slowest];
  if (stage.volume.entries.empty()) return "\nNothing is communicated.\n";
  std::string out = format("\nCommunication of a rank of stage {} in a step\n {:22} {:>6}  {:15} {:>11} {:>11}  {}\n", p.slowest, "group", "ranks",
                           "collective", "handed over", "on the wire", "link");
  std::vector<VolumeEntry> entries = stage.volume.entries;
  std::stable_sort(entries.begin(), entries.end(), [](const VolumeEntry& a, const VolumeEntry& b) { return a.group < b.group; });
  for (const VolumeEntry& e : entries) {
    const GroupSpan& span = p.spans[static_cast<size_t>(e.group)];
    std::string link = span.per_node == span.ranks ? "inside a node" : format("network, {} to a node", span.per_node);
    if (e.at_end) link += "; once";
    out += format(" {:22} {:>6}  {:15} {:>11} {:>11}  {}\n", name_of(e.group), span.ranks, name_of(e.movement), human_bytes(static_cast<uint64_t>(e.bytes)),
                  human_bytes(static_cast<uint64_t>(wire_bytes(e.movement, e.bytes, span.ranks))), link);
  }
  return out;
}

std::string assumptions(const Machine& m, const PlanTitle& title) {
  const Efficiencies& e = m.efficiency;
  return "\n" + wrapped(format(
      "Assumed: {} with {:.0f} TFLOP/s (bf16), {:.2f} TB/s, links of {:.0f} GB/s, {} GPUs a node, "
      "network {:.0f} GB/s a GPU. Of these rates: products {:.0f} %, "
      "experts {:.0f} % (of {:.0f} rows half of it), attention {:.0f} %, memory {:.0f} %, links {:.0f} %, network {:.0f} %; "
      "{:.0f} % of what may overlap does; experts are used evenly; "
      "{:.1f} GB and {:.0f} % of the rest reserved.\n",
      title.gpu, m.gpu.matrix_tflops, m.gpu.memory_tb_per_s, m.gpu.link_gb_per_s, m.per_node, m.network_gb_per_s, 100 * e.matrix, 100 * e.experts,
      e.half_rows, 100 * e.core, 100 * e.memory, 100 * e.link, 100 * e.network, 100 * e.overlap, e.reserved_gb, 100 * e.fragmentation));
}

Layout layout_of(const Plan& p) {
  return {p.mesh.tensor, p.mesh.pipeline, p.chunks, p.mesh.context, p.mesh.expert, p.mesh.expert_tensor, p.config.train.micro_batch_size};
}

std::string recompute_text(const Config& c) {
  if (c.model.recompute_granularity != "selective") return c.model.recompute_granularity.empty() ? "none" : c.model.recompute_granularity;
  return join(c.model.recompute_modules, "+");
}

std::string rejections(const SearchResult& result, bool all) {
  struct Kind {
    int64_t count = 0;
    const Rejection* nearest = nullptr;
  };
  std::map<std::string, Kind> kinds;
  for (const Rejection& r : result.rejected) {
    Kind& k = kinds[r.kind];
    ++k.count;
    if (!k.nearest || (r.excess > 0 && r.excess < k.nearest->excess)) k.nearest = &r;
  }
  std::string out = "\nRejected\n";
  for (const auto& [name, kind] : kinds)
    out += wrapped(format(" {:>6}  {:26} {}: {}\n", kind.count, name, kind.nearest->layout.text(), kind.nearest->reason));
  if (!all) return out + " --all lists each of them.\n";
  for (const Rejection& r : result.rejected) out += format("  {:34} {}: {}\n", r.layout.text(), r.kind, r.reason);
  return out;
}

}  // namespace

std::string human_count(double count) {
  for (const auto& [unit, name] : {std::pair{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}})
    if (count >= unit) return format("{:.1f} {}", count / unit, name);
  return format("{:.0f}", count);
}

std::string plan_screen(const Plan& plan, const Machine& machine, const PlanTitle& title) {
  return heading(plan, title) + memory_table(plan, machine) + time_table(plan, machine) + volume_table(plan) + assumptions(machine, title);
}

std::string search_screen(const SearchResult& result, const Config& from, int64_t ranks, const Machine& machine, const PlanTitle& title, bool all) {
  std::string out = format("{} on {} GPUs ({}) of {:.0f} GB: {} layouts looked at, {} fit\n", title.model, grouped(ranks), title.gpu,
                           machine.memory_bytes / 1e9, grouped(result.tried), grouped(result.fitting));
  if (!result.best.empty()) {
    out += format("\n {:>2}  {:34} {:16} {:>10} {:>12} {:>9} {:>7} {:>10}\n", "", "layout", "recompute", "step", "tokens/s/GPU", "TFLOP/s", "bubble", "memory");
    for (size_t i = 0; i < result.best.size(); ++i) {
      const Plan& p = result.best[i];
      out += format(" {:>2}  {:34} {:16} {:>10} {:>12} {:9.0f} {:5.1f} % {:7.1f} GB\n", i + 1, layout_of(p).text(), recompute_text(p.config),
                    milliseconds(p.seconds.total()), grouped(std::llround(p.tokens_per_second() / static_cast<double>(ranks))),
                    p.flops_per_second_per_rank() / 1e12, 100 * p.bubble, gigabytes(p.memory().total()));
    }
    const std::vector<std::string> overrides = overrides_of(result.best[0], from);
    out += "\nThe first one:\n " + (overrides.empty() ? std::string("as it is") : join(overrides, " \\\n ")) + "\n";
  }
  if (!result.rejected.empty()) out += rejections(result, all);
  return out + assumptions(machine, title);
}

}  // namespace ponte
