#include "equal/training_runs.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <mutex>

#include "base/format.h"
#include "base/hash.h"
#include "comm/thread_group.h"
#include "families/rule.h"
#include "parallel/pipeline.h"

namespace ponte::equality {
namespace {

constexpr int64_t kRows = 2, kTokens = 24, kVocabulary = 53, kIds = 48;
constexpr int64_t kSteps = 3;

// Calls body(part of the whole, part of the shard) for every stretch this rank holds.
template <class Body>
void for_pieces(const Parameter& p, const at::Tensor& whole, const at::Tensor& local, Body body) {
  int64_t first_row = 0;
  for (size_t s = 0; s < p.slice.segments.size(); ++s) {
    const Segment& segment = p.rule->segments[s];
    const int64_t dim = std::max<int64_t>(segment.shard_dim, 0);
    int64_t at = dim == 0 ? p.slice.segments[s].offset : 0;
    for (const Interval& i : p.slice.segments[s].intervals) {
      const int64_t rows = i.end - i.begin;
      body(whole.narrow(0, first_row, segment.shape[0]).narrow(dim, i.begin, rows), local.narrow(dim, at, rows));
      at += rows;
    }
    first_row += segment.shape[0];
  }
}

// Gated delta nets amplify rounding where weights are large, so hybrid models get small ones and small steps.
bool is_hybrid(const ModelConfig& c) { return !c.experimental_attention_variant.empty(); }
double learning_rate(const ModelConfig& c) { return is_hybrid(c) ? 0.002 : 0.05; }

at::Tensor random_whole(const Parameter& p, const ModelConfig& c) {
  const at::Generator generator = at::detail::createCPUGenerator(xxh3_64(std::as_bytes(std::span(p.name))));
  const at::Tensor noise = at::normal(0.0, is_hybrid(c) ? 0.1 : 0.3, p.rule->shape, generator, at::kDouble, at::kStrided, at::kCPU, false);
  const bool around_one = p.rule->shape.size() == 1 && p.name.find("bias") == std::string::npos;
  const bool zero_centered = c.layernorm_zero_centered_gamma && p.name.find("out_norm") == std::string::npos;
  return around_one && !zero_centered ? noise + 1 : noise;
}

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

// The squares of what this rank counts: its share of the rows that no other rank of the model counts.
double own_squares(const DataParallel& replicas) {
  double sum = 0;
  for (const DataParallel::Share& share : replicas.shares()) {
    const Parameter& p = *share.parameter;
    if (p.is_copy) continue;
    const at::Tensor counted = at::zeros(p.main_grad.sizes(), at::kDouble);
    for (size_t s = 0; s < p.slice.segments.size(); ++s) {
      const int64_t dim = std::max<int64_t>(p.rule->segments[s].shard_dim, 0);
      int64_t at = dim == 0 ? p.slice.segments[s].offset : 0;
      for (const Interval& i : p.slice.segments[s].intervals) {
        if (i.first_sharer == p.slice.rank) counted.narrow(dim, at, i.end - i.begin).fill_(1);
        at += i.end - i.begin;
      }
    }
    sum += (p.main_grad.to(at::kDouble).square() * counted).narrow(0, share.own.begin, share.own.count()).sum().item<double>();
  }
  return sum;
}

void fill(RankModel& model) {
  at::NoGradGuard off;
  for (Parameter* p : model.parameters())
    for_pieces(*p, random_whole(*p, model.config()), p->value, [](const at::Tensor& from, const at::Tensor& to) { to.copy_(from); });
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
void bring(const Parameter& p, const at::Tensor& shard, Part part, Outcome& out) {
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
    const at::Tensor known = at::full(share.parameter->main_grad.sizes(), NAN, at::kDouble);
    known.narrow(0, share.rows.begin, share.rows.count()).copy_(share.parameter->main_grad.narrow(0, share.rows.begin, share.rows.count()));
    bring(*share.parameter, known, Part::gradients, out);
  }
}

void run_rank(const Layout& layout, const Mesh& mesh, const Data& data, at::ScalarType type, const Groups& groups, Outcome& out, std::mutex& mutex) {
  at::set_num_threads(1);
  ModelOptions options;
  options.dtype = type;
  RankModel model(layout.config, groups, options);
  fill(model);
  const Coordinates at = mesh.coordinates(groups.world->rank());
  DataParallel replicas(model.parameters(), groups, {.optimizer = layout.optimizer, .bucket_elements = 2000});
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<Batch> batches;
    for (int64_t m = at.data; m < data.micro_batches; m += mesh.sizes().data) batches.push_back(batch_of(data, step, m));
    model.zero_gradients();
    const StepLoss loss = run_micro_batches(model.chunks(), batches);
    model.reduce_gradients();
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
    for (const DataParallel::Share& share : replicas.shares()) {
      const auto own = [&](const at::Tensor& t) { return t.narrow(0, share.rows.begin, share.rows.count()); };
      own(share.parameter->value).sub_(own(share.parameter->main_grad).to(share.parameter->value.scalar_type()), learning_rate(layout.config));
    }
    replicas.gather_values();
    model.update_expert_biases();
    groups.world->barrier();  // nobody adds the next step's loss before everybody has compared this one's
  }
  std::lock_guard lock(mutex);
  for (const Parameter* p : model.parameters()) bring(*p, p->value.detach().to(at::kDouble), Part::weights, out);
}

double distance(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / (b.norm() + 1e-300)).item<double>(); }

}  // namespace

namespace {

// Qwen3-Next's layers: gated delta nets and gated attention in turns, a shared expert beside the routed ones.
void make_hybrid(ModelConfig& c) {
  c.model_type = "qwen3_next";
  c.hf_architecture = "Qwen3NextForCausalLM";
  c.layer_types = {"linear_attention", "full_attention", "linear_attention", "full_attention"};
  c.rotary_percent = 0.5;
  c.layernorm_zero_centered_gamma = c.attention_output_gate = true;
  c.experimental_attention_variant = "gated_delta_net";
  c.linear_conv_kernel_dim = 4;
  c.linear_key_head_dim = 8;
  c.linear_value_head_dim = 12;
  c.linear_num_key_heads = 4;
  c.linear_num_value_heads = 8;
  c.moe_shared_expert_intermediate_size = 16;
  c.moe_shared_expert_gate = true;
  c.mtp_num_layers = 1;
}

}  // namespace

ModelConfig tiny(Kind kind) {
  ModelConfig c;
  c.model_type = kind == Kind::experts ? "qwen3_moe" : "qwen3";
  c.hf_architecture = kind == Kind::experts ? "Qwen3MoeForCausalLM" : "Qwen3ForCausalLM";
  c.num_layers = 4;
  c.hidden_size = 24;
  c.ffn_hidden_size = 24;
  c.num_attention_heads = 8;
  c.num_query_groups = 4;
  c.kv_channels = 8;
  c.vocab_size = kVocabulary;
  c.max_position_embeddings = 128;
  c.qk_layernorm = true;
  c.share_embeddings_and_output_weights = kind == Kind::dense_tied;
  if (kind == Kind::hybrid) make_hybrid(c);
  if (kind != Kind::experts && kind != Kind::hybrid) return c;
  c.num_moe_experts = 4;
  c.moe_router_topk = 2;
  c.moe_ffn_hidden_size = 12;
  c.moe_aux_loss_coeff = 0.02;
  c.moe_z_loss_coeff = 0.01;
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
