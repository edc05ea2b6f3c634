#include "equal/training_runs.h"

#include <ATen/Parallel.h>
#include <mutex>

#include "base/format.h"
#include "comm/thread_group.h"
#include "equal/pieces.h"
#include "models.h"
#include "optim/adamw.h"
#include "parallel/pipeline.h"
#include "test_device.h"

namespace ponte::equality {
namespace {

constexpr int64_t kRows = 2, kTokens = 24, kVocabulary = 53, kIds = 48;
constexpr int64_t kSteps = 3;
constexpr double kAdamWRate = 1e-3;

// Hybrid models get small steps too, as pieces.h gives them small weights.
double learning_rate(const ModelConfig& c) { return is_hybrid(c) ? 0.002 : 0.05; }

Batch batch_of(const Data& data, int64_t step, int64_t micro_batch) {
  const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(100 * step + micro_batch + 1));
  const auto random = [&](int64_t end) { return at::randint(0, end, {kRows, kTokens}, generator, at::kLong); };
  Batch out;
  out.tokens_BT = random(kIds);
  out.labels_BT = random(kIds);
  if (data.uneven) {
    out.loss_mask_BT = at::ge(random(5), 1 + micro_batch % 3).to(at::kFloat) * 0.5;
    if (micro_batch == 1) out.loss_mask_BT[0].zero_();
  }
  if (data.packed) {
    const int64_t length = 5 + 3 * (micro_batch % 3);
    out.document_starts_BT = at::arange(kTokens).div(length, "floor").mul(length).unsqueeze(0).expand({kRows, kTokens}).contiguous();
    out.document_starts_BT[1].zero_();  // a row of one document beside a packed one
    out.position_ids_BT = at::arange(kTokens) - out.document_starts_BT;
  }
  if (data.padded) {
    out.padding_BT = at::zeros({kRows, kTokens}, at::kBool);
    out.padding_BT[1].narrow(0, kTokens - 7, 7).fill_(true);
    if (!out.loss_mask_BT.defined()) out.loss_mask_BT = at::ones({kRows, kTokens});
    out.loss_mask_BT.masked_fill_(out.padding_BT, 0);
  }
  return out;
}

at::Tensor rows_of(const KeptRows& kept, Rows rows) { return kept.tensor.narrow(0, rows.begin - kept.rows.begin, rows.count()); }

// The squares of what this rank counts: its share of the rows that no other rank of the model counts.
double own_squares(const DataParallel& replicas) {
  double sum = 0;
  for (const DataParallel::Share& share : replicas.shares()) {
    const Parameter& p = *share.parameter;
    if (p.is_copy || !p.value.requires_grad()) continue;
    const at::Tensor counted = at::zeros(p.slice.shape, at::kDouble);
    for (size_t s = 0; s < p.slice.segments.size(); ++s) {
      const int64_t dim = std::max<int64_t>(p.rule->segments[s].shard_dim, 0);
      int64_t at = dim == 0 ? p.slice.segments[s].offset : 0;
      for (const Interval& i : p.slice.segments[s].intervals) {
        if (i.first_sharer == p.slice.rank) counted.narrow(dim, at, i.end - i.begin).fill_(1);
        at += i.end - i.begin;
      }
    }
    const at::Tensor own = rows_of(p.kept_gradient, share.own).to(at::kCPU, at::kDouble);
    sum += (own.square() * counted.narrow(0, share.own.begin, share.own.count())).sum().item<double>();
  }
  return sum;
}

// What a log would say of experts and predictions.
std::vector<double> reports(const RankModel& model) {
  std::vector<double> out;
  for (const ExpertLoad& load : model.expert_loads()) {
    out.insert(out.end(), {load.tokens, load.balancing, load.z});
    for (int64_t e = 0; load.tokens_E.defined() && e < load.tokens_E.size(0); ++e) out.push_back(load.tokens_E[e].item<double>());
  }
  for (const PredictionLoss& loss : model.prediction_losses()) out.insert(out.end(), {loss.sum, loss.tokens});
  return out;
}

enum class Part { gradients, weights };

// Puts a rank's shard into the whole; NaN is what nobody has brought yet, or this rank does not know.
void bring(const Parameter& p, const KeptRows& kept, Rows rows, Part part, Outcome& out) {
  const at::Tensor shard = at::full(p.slice.shape, NAN, at::kDouble);
  shard.narrow(0, rows.begin, rows.count()).copy_(rows_of(kept, rows));
  at::Tensor& whole = (part == Part::gradients ? out.gradients : out.weights)[p.name];
  if (!whole.defined()) whole = at::full(p.rule->shape, NAN, at::kDouble);
  for_pieces(p, whole, shard, [&](const at::Tensor& to, const at::Tensor& from) {
    const at::Tensor both = at::logical_not(at::logical_or(to.isnan(), from.isnan()));
    if (!at::equal(to.masked_select(both), from.masked_select(both)))
      out.disagreements.push_back((part == Part::gradients ? "gradient of " : "weights of ") + p.name);
    to.copy_(at::where(from.isnan(), to, from));
  });
}

void collect_gradients(const DataParallel& replicas, Outcome& out) {
  for (const DataParallel::Share& share : replicas.shares()) {
    if (share.parameter->value.requires_grad()) bring(*share.parameter, share.parameter->kept_gradient, share.rows, Part::gradients, out);
  }
}

void descend(const DataParallel& replicas, double rate) {
  for (const DataParallel::Share& share : replicas.shares()) {
    const Parameter& p = *share.parameter;
    if (!p.value.requires_grad()) continue;
    rows_of(p.kept_value, share.rows).sub_(rows_of(p.kept_gradient, share.rows).to(p.value.scalar_type()), rate);
  }
}

void run_rank(const Layout& layout, const Mesh& mesh, const Data& data, at::ScalarType type, const Groups& groups, Outcome& out, std::mutex& mutex) {
  at::set_num_threads(1);
  ModelOptions options;
  options.device = test_device();
  options.dtype = type;
  RankModel model(layout.config, groups, options);
  fill(model.parameters(), model.config());
  const Coordinates at = mesh.coordinates(groups.world->rank());
  DataParallel::Settings settings = layout.replicas;
  settings.bucket_elements = 2000;
  DataParallel replicas(model.chunks(), groups, settings);
  std::vector<AdamW::Part> parts;
  for (const DataParallel::Share& share : replicas.shares()) parts.push_back({share.parameter, share.rows, {}});
  AdamW adamw(parts, {});
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<Batch> batches;
    for (int64_t m = at.data; m < data.micro_batches; m += mesh.sizes().data) batches.push_back(batch_of(data, step, m));
    model.zero_gradients();
    const StepLoss loss = run_micro_batches(model.chunks(), batches);
    replicas.reduce_gradients();
    model.reduce_reports();
    at::Tensor squares = at::full({1}, own_squares(replicas), at::kDouble);
    groups.world->all_reduce(squares, ReduceOp::sum);
    {
      std::lock_guard lock(mutex);
      if (out.losses.size() == static_cast<size_t>(step)) {
        out.losses.push_back(loss.sum);
        out.valid_tokens.push_back(loss.valid_tokens);
        out.norms.push_back(std::sqrt(squares.item<double>()));
        out.reports.push_back(reports(model));
      }
      if (out.reports[step] != reports(model)) out.disagreements.push_back("reports");
      if (out.losses[step] != loss.sum) out.disagreements.push_back("loss");
      if (step == 0) collect_gradients(replicas, out);
    }
    at::NoGradGuard off;
    if (data.update == Update::adamw) adamw.step(kAdamWRate, 0.1, clip_factor(std::sqrt(squares.item<double>()), 0.5));
    else descend(replicas, learning_rate(layout.config));
    replicas.gather_values();
    model.update_expert_biases();
    groups.world->barrier();  // nobody adds the next step's loss before everybody has compared this one's
  }
  replicas.finish_values();
  std::lock_guard lock(mutex);
  for (const Parameter* p : model.parameters()) bring(*p, p->kept_value, p->kept_value.rows, Part::weights, out);
}

}  // namespace

ModelConfig tiny(Kind kind) {
  ModelConfig c =
      models::qwen3({.layers = 4, .hidden = 24, .ffn = 24, .heads = 8, .groups = 4, .head_dim = 8, .vocabulary = kVocabulary});
  c.share_embeddings_and_output_weights = kind == Kind::dense_tied;
  if (kind != Kind::experts && kind != Kind::hybrid) return c;
  c = models::with_experts(c, {.count = 4, .chosen = 2, .ffn = 12, .balancing = 0.02});
  c.moe_z_loss_coeff = 0.01;
  if (kind == Kind::experts) return c;
  c = models::with_linear_attention(models::with_shared_expert(c, 16),
                                    {.key_heads = 4, .value_heads = 8, .key_dim = 8, .value_dim = 12, .frequency = 2, .rotary_percent = 0.5});
  c.mtp_num_layers = 1;
  return c;
}

Outcome train(const Layout& layout, const Data& data, at::ScalarType type, const std::function<void(Groups&)>& alter) {
  const Mesh mesh(layout.mesh);
  Outcome out;
  std::mutex mutex;
  run_ranks(mesh, [&](Groups groups) {
    if (alter) alter(groups);
    run_rank(layout, mesh, data, type, groups, out, mutex);
  });
  return out;
}

std::vector<std::string> differences(const Outcome& many, const Outcome& one, double tolerance) {
  std::vector<std::string> out = many.disagreements;
  const auto check = [&](const std::string& what, double relative) {
    if (!(relative <= tolerance)) out.push_back(format("{}: {:.3g}", what, relative));
  };
  const auto numbers = [&](const char* what, const std::vector<double>& a, const std::vector<double>& b) {
    for (size_t step = 0; step < b.size(); ++step) check(format("{} of step {}", what, step), std::abs(a.at(step) - b[step]) / (std::abs(b[step]) + 1e-300));
  };
  numbers("loss", many.losses, one.losses);
  numbers("valid tokens", many.valid_tokens, one.valid_tokens);
  numbers("gradient norm", many.norms, one.norms);
  for (size_t step = 0; step < one.reports.size(); ++step) {
    if (many.reports.at(step).size() != one.reports[step].size()) out.push_back("reports: other numbers");
    else numbers("report", many.reports[step], one.reports[step]);
  }
  const auto tensors = [&](const char* what, const auto& a, const auto& b) {
    for (const auto& [name, tensor] : b) check(format("{} of {}", what, name), a.contains(name) ? distance(a.at(name), tensor) : INFINITY);
    for (const auto& [name, tensor] : a) check(format("{} of {}", what, name), b.contains(name) ? 0 : INFINITY);
  };
  tensors("gradient", many.gradients, one.gradients);
  tensors("weights", many.weights, one.weights);
  return out;
}

}  // namespace ponte::equality
