#include "layout/plan_search.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/errors.h"
#include "base/format.h"
#include "config/document.h"

namespace ponte {
namespace {

constexpr int64_t kShortestPiece = 1024;  // tokens of a sequence a context rank is worth having for

std::vector<int64_t> divisors(int64_t n, int64_t largest) {
  std::vector<int64_t> out;
  for (int64_t d = 1; d <= std::min(n, largest); ++d)
    if (n % d == 0) out.push_back(d);
  return out;
}

std::vector<int64_t> choices(bool fixed, int64_t value, std::vector<int64_t> free) { return fixed ? std::vector{value} : std::move(free); }

// Ways to recompute, from the cheapest in time to the leanest in memory.
struct RecomputeChoice {
  const char *granularity, *method;
  std::vector<std::string> modules;
};

// The faster one; of those that an estimate cannot tell apart, the one cut less.
bool better(const Plan& a, const Plan& b) {
  const auto key = [](const Plan& p) {
    const MeshSizes& m = p.mesh;
    return std::tuple(std::llround(std::log(p.seconds.total()) * 200), m.tensor * m.pipeline * m.context, m.expert * m.expert_tensor, p.chunks,
                      p.seconds.total(), p.config.train.micro_batch_size);
  };
  return key(a) < key(b);
}

class Search {
 public:
  Search(const ModelLayers& layers, const Config& config, int64_t ranks, const Machine& machine, const FixedAxes& fixed, size_t keep)
      : planner_(layers, machine), base_(config), ranks_(ranks), machine_(machine), fixed_(fixed), keep_(keep) {
    const bool sparse = config.model.num_moe_experts > 0;
    if (fixed.recompute) recompute_ = {{config.model.recompute_granularity.c_str(), config.model.recompute_method.c_str(), config.model.recompute_modules}};
    else recompute_ = {{"", "", {}}, {"selective", "", {"core_attn"}}, {"selective", "", {"core_attn", sparse ? "moe" : "mlp"}}, {"full", "uniform", {}}};
  }

  SearchResult run() {
    const ModelConfig& m = base_.model;
    for (const int64_t tensor : choices(fixed_.tensor, m.tensor_model_parallel_size, divisors(ranks_, 4 * machine_.per_node)))
      for (const int64_t pipeline : choices(fixed_.pipeline, m.pipeline_model_parallel_size, divisors(ranks_, m.num_layers + 2)))
        for (const int64_t context : choices(fixed_.context, m.context_parallel_size, context_sizes()))
          for (const auto& [expert, expert_tensor] : expert_sizes(tensor)) {
            const Layout layout{tensor, pipeline, 1, context, expert, expert_tensor, base_.train.micro_batch_size};
            if (worth_a_look(layout)) vary(layout);
          }
    std::sort(result_.best.begin(), result_.best.end(), better);
    return std::move(result_);
  }

 private:
  std::vector<int64_t> context_sizes() const {
    std::vector<int64_t> out = {1};
    for (int64_t c = 2; base_.model.seq_length / c >= kShortestPiece && c <= ranks_; c *= 2) out.push_back(c);
    return out;
  }
  std::vector<std::pair<int64_t, int64_t>> expert_sizes(int64_t tensor) const {
    const ModelConfig& m = base_.model;
    if (m.num_moe_experts == 0) return {{1, tensor}};
    std::vector<std::pair<int64_t, int64_t>> out;
    std::vector<int64_t> tensors = {1};
    if (tensor > 1) tensors.push_back(tensor);
    for (const int64_t expert_tensor : choices(fixed_.expert_tensor, m.expert_tensor_parallel_size, tensors))
      for (const int64_t expert : choices(fixed_.expert, m.expert_model_parallel_size, divisors(m.num_moe_experts, ranks_)))
        out.push_back({expert, expert_tensor});
    return out;
  }

  void reject(const Layout& layout, std::string kind, std::string reason, double excess = 0) {
    result_.rejected.push_back({layout, std::move(kind), std::move(reason), excess});
  }

  // What no chunking or batch changes.
  bool worth_a_look(const Layout& l) {
    const ModelConfig& m = base_.model;
    const int64_t model_ranks = l.tensor * l.pipeline * l.context;
    if (ranks_ % model_ranks != 0)
      return ++result_.tried,
             reject(l, "ranks", format("{} ranks do not divide by TP{} x PP{} x CP{} = {}", ranks_, l.tensor, l.pipeline, l.context, model_ranks)),
             false;
    if (!fixed_.tensor && l.tensor > machine_.per_node)
      return ++result_.tried,
             reject(l, "tensor ranks over nodes",
                    format("{} tensor ranks, {} GPUs in a node: every layer would wait for the network", l.tensor, machine_.per_node)),
             false;
    if (m.num_moe_experts > 0 && (ranks_ / l.pipeline) % (l.expert * l.expert_tensor) != 0)
      return ++result_.tried,
             reject(l, "expert ranks",
                    format("the {} ranks of a stage do not divide by EP{} x ETP{}", ranks_ / l.pipeline, l.expert, l.expert_tensor)),
             false;
    const int64_t replicas = ranks_ / model_ranks;
    if (base_.train.global_batch_size % replicas != 0)
      return ++result_.tried, reject(l, "batch", format("global batch {} does not divide over {} replicas", base_.train.global_batch_size, replicas)), false;
    return true;
  }

  void vary(const Layout& base) {
    const ModelConfig& m = base_.model;
    const int64_t replicas = ranks_ / (base.tensor * base.pipeline * base.context), own = base_.train.global_batch_size / replicas;
    const int64_t asked = std::max<int64_t>(m.virtual_pipeline_model_parallel_size, 1);
    const std::vector<int64_t> chunks = base.pipeline == 1 ? std::vector<int64_t>{1} : choices(fixed_.virtual_pipeline, asked, {1, 2, 3, 4, 6});
    for (const int64_t c : chunks)
      for (const int64_t micro_batch : choices(fixed_.micro_batch, base_.train.micro_batch_size, {1, 2, 4})) {
        if (own % micro_batch != 0) continue;
        Layout layout = base;
        layout.chunks = c;
        layout.micro_batch = micro_batch;
        ++result_.tried;
        try_layout(layout);
      }
  }

  Config config_of(const Layout& l) const {
    Config c = base_;
    ModelConfig& m = c.model;
    m.tensor_model_parallel_size = l.tensor;
    m.pipeline_model_parallel_size = l.pipeline;
    m.virtual_pipeline_model_parallel_size = l.chunks > 1 ? l.chunks : 0;
    m.num_layers_per_virtual_pipeline_stage = 0;
    m.context_parallel_size = l.context;
    std::vector<int64_t>& levels = m.hierarchical_context_parallel_sizes;
    if (levels.size() == 2 && levels[0] > 0 && l.context % levels[0] == 0) levels[1] = l.context / levels[0];
    m.expert_model_parallel_size = l.expert;
    m.expert_tensor_parallel_size = m.num_moe_experts > 0 ? l.expert_tensor : 0;
    m.sequence_parallel = l.tensor > 1;
    c.train.micro_batch_size = l.micro_batch;
    c.validation.eval_micro_batch_size = l.micro_batch;
    c.validation.eval_global_batch_size = c.train.global_batch_size;
    c.ddp.use_distributed_optimizer = c.optimizer.use_distributed_optimizer = true;
    if (!fixed_.pipeline) split_unevenly(m, l.pipeline * l.chunks);
    return c;
  }
  // Embedding and output layer each counted as a layer where that makes the stages even.
  static void split_unevenly(ModelConfig& m, int64_t stages) {
    m.pipeline_model_parallel_layout.clear();
    m.num_layers_in_first_pipeline_stage = m.num_layers_in_last_pipeline_stage = 0;
    const bool even = m.num_layers % stages == 0;
    m.account_for_embedding_in_pipeline_split = !even && (m.num_layers + 2) % stages == 0;
    m.account_for_loss_in_pipeline_split = !even && ((m.num_layers + 2) % stages == 0 || (m.num_layers + 1) % stages == 0);
  }

  // The first way to recompute that fits is the fastest.
  void try_layout(const Layout& layout) {
    Config config = config_of(layout);
    std::optional<Rejection> missing;
    try {
      validate(config, ranks_);
      for (const RecomputeChoice& r : recompute_) {
        config.model.recompute_granularity = r.granularity;
        config.model.recompute_method = r.method;
        config.model.recompute_modules = r.modules;
        if (*r.method == '\0') config.model.recompute_num_layers = 1;
        Plan plan = planner_.plan(config, ranks_);
        const double excess = static_cast<double>(plan.memory().total()) - machine_.memory_bytes;
        if (excess <= 0) return accept(std::move(plan));
        missing = {layout, "memory", format("{} of {} on stage {}{}", human_bytes(static_cast<uint64_t>(plan.memory().total())),
                                            human_bytes(static_cast<uint64_t>(machine_.memory_bytes)), plan.fullest,
                                            *r.granularity ? format(", with {} recompute", r.granularity) : ""), excess};
      }
      result_.rejected.push_back(*missing);
    } catch (const UserError& error) {
      reject(layout, "does not divide", first_line(error.what()));
    }
  }
  // Of several violated checks, the first.
  static std::string first_line(std::string_view text) {
    const std::vector<std::string> lines = split(text, '\n');
    const std::string& line = lines.size() > 1 ? lines[1] : lines[0];
    return line.substr(std::min(line.find_first_not_of(' '), line.size()));
  }

  void accept(Plan plan) {
    ++result_.fitting;
    result_.best.push_back(std::move(plan));
    std::push_heap(result_.best.begin(), result_.best.end(), better);  // the worst in front
    if (result_.best.size() <= keep_) return;
    std::pop_heap(result_.best.begin(), result_.best.end(), better);
    result_.best.pop_back();
  }

  Planner planner_;
  const Config& base_;
  int64_t ranks_;
  const Machine& machine_;
  FixedAxes fixed_;
  size_t keep_;
  std::vector<RecomputeChoice> recompute_;
  SearchResult result_;
};

}  // namespace

std::string Layout::text() const {
  std::string out = format("TP{} PP{}", tensor, pipeline);
  if (chunks > 1) out += format(" VPP{}", chunks);
  if (context > 1) out += format(" CP{}", context);
  if (expert > 1) out += format(" EP{}", expert);
  if (expert_tensor > 1 && expert > 1) out += format(" ETP{}", expert_tensor);
  return out + format(" mb{}", micro_batch);
}

SearchResult search_layouts(const ModelLayers& layers, const Config& config, int64_t ranks, const Machine& machine, const FixedAxes& fixed, size_t keep) {
  return Search(layers, config, ranks, machine, fixed, keep).run();
}

std::vector<std::string> overrides_of(const Plan& plan, const Config& from) {
  std::vector<std::string> out;
  for (const ConfigDifference& d : config_difference(from, plan.config)) {
    // Follow from other keys.
    if (d.key.starts_with("validation.") || d.key == "optimizer.use_distributed_optimizer") continue;
    out.push_back(d.key + "=" + d.right);
  }
  return out;
}

}  // namespace ponte
