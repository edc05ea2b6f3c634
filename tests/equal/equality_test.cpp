// Parallelism changes no number: over every axis and every pair of axes, losses, gradient norms, every parameter's gradient and the weights after three steps
// (SGD in fp32, AdamW in fp64) equal one process's, norm-relative per tensor, 1e-5 in fp32 and 1e-12 in fp64. Ranks are threads.
#include "equal/training_runs.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/errors.h"
#include "base/format.h"

namespace ponte::equality {
namespace {

struct Axis {
  std::string name, family;  // axes of one family exclude each other
  std::function<void(Layout&)> apply;
  bool experts_only = false;
  bool paired = true;
};

const std::vector<Axis>& axes() {
  static const std::vector<Axis> list = {
      {"tp", "tensor", [](Layout& l) { l.mesh.tensor = 2; }},
      {"sp", "tensor", [](Layout& l) { l.mesh.tensor = 2, l.config.sequence_parallel = true; }},
      {"tp8", "tensor", [](Layout& l) { l.mesh.tensor = 8; }},  // more ranks than query groups
      {"pp", "pipeline", [](Layout& l) { l.mesh.pipeline = 2; }},
      {"pp3", "pipeline", [](Layout& l) { l.mesh.pipeline = 3, l.config.num_layers_in_first_pipeline_stage = l.config.num_layers_in_last_pipeline_stage = 1; }},
      {"vpp", "pipeline", [](Layout& l) { l.mesh.pipeline = 2, l.config.virtual_pipeline_model_parallel_size = 2; }},
      {"cp", "context", [](Layout& l) { l.mesh.context = 2; }},
      {"cp3", "context", [](Layout& l) { l.mesh.context = 3; }},
      {"cp gathering", "context", [](Layout& l) { l.mesh.context = 2, l.config.cp_comm_type = "all_gather"; }},
      {"cp exchanging", "context", [](Layout& l) { l.mesh.context = 2, l.config.cp_comm_type = "a2a"; }},
      {"cp in levels", "context", [](Layout& l) { l.mesh.context = 4, l.mesh.context_inner = 2, l.config.cp_comm_type = "a2a+p2p"; }},
      {"dp", "data", [](Layout& l) { l.mesh.data *= 2; }},
      {"distributed optimizer", "data", [](Layout& l) { l.mesh.data *= 2, l.replicas.sharding = Sharding::optimizer; }},
      {"sharded gradients", "data", [](Layout& l) { l.mesh.data *= 2, l.replicas.sharding = Sharding::gradients; }, false, false},
      {"sharded parameters", "data", [](Layout& l) { l.mesh.data *= 2, l.replicas.sharding = Sharding::parameters; }},
      {"ep", "expert", [](Layout& l) { l.mesh.data *= 2, l.mesh.expert = 2; }, true},
      {"ep4", "expert", [](Layout& l) { l.mesh.data *= 4, l.mesh.expert = 4; }, true},
      {"ep gathering", "expert", [](Layout& l) { l.mesh.data *= 2, l.mesh.expert = 2, l.config.moe_token_dispatcher_type = "allgather"; }, true},
      {"etp", "expert", [](Layout& l) { l.mesh.data *= 2, l.mesh.expert_tensor = 2; }, true},
      {"ep etp", "expert", [](Layout& l) { l.mesh.data *= 4, l.mesh.expert = 2, l.mesh.expert_tensor = 2; }, true},
      {"ep etp gathering", "expert",
       [](Layout& l) { l.mesh.data *= 4, l.mesh.expert = 2, l.mesh.expert_tensor = 2, l.config.moe_token_dispatcher_type = "allgather"; }, true},
  };
  return list;
}

struct Row {
  std::string name;
  Kind kind;
  Layout layout;
  Data data;
  std::string variant;  // of the model, where it is not the kind's tiny one
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

void close(Row& row) {
  ModelConfig& c = row.layout.config;
  const MeshSizes& m = row.layout.mesh;
  c.tensor_model_parallel_size = m.tensor;
  c.pipeline_model_parallel_size = m.pipeline;
  c.context_parallel_size = m.context;
  c.expert_model_parallel_size = m.expert;
  c.expert_tensor_parallel_size = m.expert_tensor;
}

const char* name_of(Kind kind) {
  return kind == Kind::dense_tied ? "tied" : kind == Kind::dense_untied ? "untied" : kind == Kind::experts ? "experts" : "hybrid";
}
bool has_experts(Kind kind) { return kind == Kind::experts || kind == Kind::hybrid; }

// Pairs of many ranks are run for some kinds alone; heads that do not divide are not run at all.
bool is_worth_a_row(Kind kind, const std::string& one, const std::string& other) {
  if (one == "tp8" || other == "tp8") return kind == Kind::dense_tied && other != "cp exchanging" && other != "cp in levels";
  return (one != "cp in levels" && other != "cp in levels") || kind == Kind::dense_untied || kind == Kind::experts;
}

std::vector<Row> axes_and_pairs() {
  std::vector<Row> out;
  const auto add = [&](Kind kind, const std::vector<const Axis*>& chosen, Update update = Update::sgd) {
    Row row{name_of(kind), kind, {{}, tiny(kind)}, {.update = update}, {}};
    for (const Axis* axis : chosen) {
      if (axis->experts_only && !has_experts(kind)) return;
      if (axis->name == "tp8" && kind == Kind::hybrid) return;  // more ranks than key heads
      row.name += " " + axis->name;
      axis->apply(row.layout);
    }
    row.data.micro_batches = std::max<int64_t>(4, row.layout.mesh.data * (row.layout.config.virtual_pipeline_model_parallel_size > 0 ? 2 : 1));
    close(row);
    if (update == Update::adamw) row.name += " AdamW";
    out.push_back(row);
  };
  for (const Kind kind : {Kind::dense_tied, Kind::dense_untied, Kind::experts, Kind::hybrid})
    for (size_t i = 0; i < axes().size(); ++i) {
      add(kind, {&axes()[i]});
      add(kind, {&axes()[i]}, Update::adamw);
      for (size_t j = i + 1; j < axes().size(); ++j)
        if (axes()[i].family != axes()[j].family && axes()[i].paired && axes()[j].paired && is_worth_a_row(kind, axes()[i].name, axes()[j].name))
          add(kind, {&axes()[i], &axes()[j]});
    }
  return out;
}

class Equality : public testing::TestWithParam<Row> {};

// One process's run of the same model and data, which many rows share.
const Outcome& alone(const Row& row, at::ScalarType type) {
  static std::map<std::string, Outcome> runs;
  const std::string key =
      format("{} {} {} {}{}{} {} {}", row.kind, row.variant, type, row.data.uneven, row.data.packed, row.data.padded, row.data.micro_batches, row.data.update);
  const auto [place, is_new] = runs.try_emplace(key);
  if (!is_new) return place->second;
  ModelConfig config = row.layout.config;
  for (int64_t* size : {&config.tensor_model_parallel_size, &config.pipeline_model_parallel_size, &config.context_parallel_size,
                        &config.expert_model_parallel_size, &config.expert_tensor_parallel_size})
    *size = 1;
  config.sequence_parallel = false;
  config.recompute_granularity = config.recompute_method = "";
  return place->second = train({{}, config}, row.data, type);
}

TEST_P(Equality, LossGradientsAndWeights) {
  const Row& row = GetParam();
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kFloat, 1e-5}, {at::kDouble, 1e-12}}) {
    // In fp32 AdamW makes steps of gradients that are rounding alone.
    if (row.data.update == Update::adamw && type != at::kDouble) continue;
    SCOPED_TRACE(at::toString(type));
    for (const std::string& what : differences(train(row.layout, row.data, type), alone(row, type), tolerance)) ADD_FAILURE() << what;
  }
}

std::string test_name(const testing::TestParamInfo<Row>& info) {
  std::string out = info.param.name;
  for (char& c : out)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return out;
}

INSTANTIATE_TEST_SUITE_P(AxesAndPairs, Equality, testing::ValuesIn(axes_and_pairs()), test_name);

// What pairs leave out: many axes at once, other data, and what a model can have that looks at more than one token.
struct Special {
  const char* name;
  Kind kind;
  std::function<void(ModelConfig&)> model;  // null: the tiny one
  MeshSizes mesh;
  std::function<void(ModelConfig&)> layout;  // null: nothing beside the sizes
  Data data = {};
  DataParallel::Settings replicas = {};
};

std::vector<Row> specials() {
  const auto balancing = [](const char* type) { return [type](ModelConfig& c) { c.moe_router_load_balancing_type = type; }; };
  const auto capacity = [](const char* policy) { return [policy](ModelConfig& c) { c.moe_expert_capacity_factor = 0.9, c.moe_token_drop_policy = policy; }; };
  const auto bias = [](ModelConfig& c) { c.moe_router_score_function = "sigmoid", c.moe_router_enable_expert_bias = true,
                                         c.moe_router_bias_update_rate = 0.05; };
  const auto shared = [](ModelConfig& c) { c.model_type = "qwen2_moe", c.hf_architecture = "Qwen2MoeForCausalLM", c.moe_shared_expert_intermediate_size = 16,
                                           c.moe_shared_expert_gate = true, c.qk_layernorm = false, c.add_qkv_bias = true; };
  const auto predictions = [](ModelConfig& c) { c.mtp_num_layers = 2; };
  const auto dense_predictions = [](ModelConfig& c) { c.mtp_num_layers = 1, c.model_type = "qwen3_next", c.hf_architecture = "Qwen3NextForCausalLM"; };
  const auto window = [](ModelConfig& c) { c.layer_types = {"full_attention", "sliding_attention", "sliding_attention", "full_attention"}, c.window_size = 7; };
  const auto sequence = [](ModelConfig& c) { c.sequence_parallel = true; };
  const auto recompute = [](ModelConfig& c) { c.recompute_granularity = "full", c.recompute_method = "uniform"; };
  const auto gathering = [](ModelConfig& c) { c.cp_comm_type = "all_gather"; };
  const auto exchanging = [](ModelConfig& c) { c.cp_comm_type = "a2a"; };
  const auto levels = [](ModelConfig& c) { c.cp_comm_type = "a2a+p2p"; };
  const auto bare = [](ModelConfig& c) { c.vocab_size = 48; };
  const Data plain{.uneven = false, .packed = false}, padded{.padded = true}, single{.micro_batches = 1}, six{.micro_batches = 6}, eight{.micro_batches = 8};
  const DataParallel::Settings optimizer{.sharding = Sharding::optimizer}, gradients{.sharding = Sharding::gradients}, whole{.sharding = Sharding::parameters};
  const DataParallel::Settings outer{.sharding = Sharding::parameters, .copies = Copies::share_optimizer};
  const auto with_overlap = [](DataParallel::Settings s) {
    s.gradients = s.values = Overlap::with_compute;
    return s;
  };
  const DataParallel::Settings ahead = with_overlap(whole), optimizer_ahead = with_overlap(optimizer), replicas_ahead = with_overlap({});
  using enum Kind;
  const std::vector<Special> list = {
      {"groups of one", dense_tied, {}, {}, {}},
      {"one micro-batch", dense_untied, {}, {.tensor = 2, .context = 2}, sequence, single},
      {"one micro-batch in stages", dense_tied, {}, {.pipeline = 2}, {}, single},
      {"even vocabulary, plain rows", dense_tied, bare, {.tensor = 2, .context = 2, .pipeline = 2}, {}, plain},
      {"padding", experts, {}, {.tensor = 2, .context = 2, .expert = 2}, sequence, padded},
      {"everything dense", dense_tied, {}, {.tensor = 2, .context = 2, .data = 2, .pipeline = 2}, [](ModelConfig& c) {
         c.sequence_parallel = true, c.virtual_pipeline_model_parallel_size = 2;
       }, eight},
      {"everything sparse", experts, {}, {.tensor = 2, .context = 2, .data = 2, .pipeline = 2, .expert = 4, .expert_tensor = 2}, sequence},
      {"experts over context ranks", experts, {}, {.context = 2, .expert = 2}, {}},
      {"experts over tensor ranks", experts, {}, {.tensor = 2, .expert = 2}, {}},
      {"experts over sequence shards", experts, {}, {.tensor = 2, .expert = 2}, sequence},
      {"experts shared over sequence shards", experts, {}, {.tensor = 2, .expert_tensor = 2}, sequence},
      {"layout string", dense_tied, {}, {.pipeline = 2}, [](ModelConfig& c) { c.pipeline_model_parallel_layout = "Ettt|t||L"; }},
      {"recompute in stages", dense_tied, {}, {.tensor = 2, .context = 2, .pipeline = 2}, recompute},
      {"recompute of experts", experts, {}, {.data = 4, .expert = 2, .expert_tensor = 2}, recompute},
      {"window in a ring", dense_untied, window, {.context = 3}, {}},
      {"window, gathering", dense_untied, window, {.context = 2}, gathering},
      {"window, exchanging", dense_untied, window, {.context = 2}, exchanging},
      {"window, in levels", dense_untied, window, {.context = 6, .context_inner = 2}, levels},
      {"all neighbours", dense_untied, {}, {.context = 4, .context_inner = 4}, levels},
      {"no neighbours", dense_untied, {}, {.context = 3, .context_inner = 1}, levels},
      {"plain rows in levels", dense_untied, {}, {.context = 6, .context_inner = 2}, levels, plain},
      {"hybrid by chunks, plain rows", hybrid, {}, {.context = 4}, {}, plain},
      {"hybrid by heads, plain rows", hybrid, {}, {.context = 4}, exchanging, plain},
      {"hybrid by chunks, recompute", hybrid, {}, {.tensor = 2, .context = 2}, recompute},
      {"plain rows in a ring", dense_untied, {}, {.context = 4}, {}, plain},
      {"shared expert", experts, shared, {.tensor = 2, .data = 2, .expert = 2}, {}},
      {"shared expert, sequence shards", experts, shared, {.tensor = 2, .context = 2, .expert = 4}, sequence},
      {"loss per sequence", experts, balancing("seq_aux_loss"), {.tensor = 2, .context = 2, .data = 2}, sequence},
      {"loss per sequence, padding", experts, balancing("seq_aux_loss"), {.tensor = 2, .context = 2}, sequence, padded},
      {"loss per step", experts, balancing("global_aux_loss"), {.data = 2}, {}},
      {"loss per step, shards", experts, balancing("global_aux_loss"), {.tensor = 2, .context = 2, .data = 2, .expert = 2}, sequence},
      {"loss per step, stages, padding", experts, balancing("global_aux_loss"), {.data = 2, .pipeline = 2}, {}, padded},
      {"capacity by weight", experts, capacity("probs"), {.tensor = 2, .context = 2, .data = 2, .expert = 2}, sequence},
      {"capacity by place", experts, capacity("position"), {.tensor = 2, .context = 2, .expert = 2}, sequence, padded},
      {"hybrid, many axes", hybrid, {}, {.tensor = 2, .context = 2, .data = 2, .pipeline = 2, .expert = 4}, sequence},
      {"hybrid, padding, recompute", hybrid, {}, {.tensor = 2, .context = 2, .expert = 2}, recompute, padded},
      {"prediction layers", hybrid, predictions, {.tensor = 2, .data = 2, .expert = 2}, {}},
      {"prediction layers, shards", hybrid, predictions, {.tensor = 2, .context = 2, .expert = 2}, sequence},
      {"prediction layers, tied, padding", dense_tied, dense_predictions, {.tensor = 2, .context = 2, .data = 2}, {}, padded},
      {"prediction layers in stages, tied", dense_tied, dense_predictions, {.tensor = 2, .context = 2, .pipeline = 2}, sequence, padded},
      {"prediction layers in stages, untied", hybrid, predictions, {.tensor = 2, .data = 2, .pipeline = 2, .expert = 2}, {}},
      {"prediction layers in a layout string", hybrid, {}, {.pipeline = 2}, [](ModelConfig& c) { c.pipeline_model_parallel_layout = "Et|t|tt|mL"; }},
      {"expert bias of prediction layers", hybrid, bias, {.data = 2, .pipeline = 2, .expert = 2}, {}},
      {"expert bias", experts, bias, {.tensor = 2, .data = 2, .expert = 2}, sequence},
      {"sharded parameters, groups of one", dense_tied, {}, {}, {}, {}, whole},
      {"sharded parameters over three", dense_tied, {}, {.data = 3}, {}, six, whole},
      {"sharded gradients over three", dense_untied, {}, {.data = 3}, {}, six, gradients},
      {"sharded parameters, one micro-batch each", dense_untied, {}, {.data = 4}, {}, {}, ahead},
      {"sharded parameters, everything dense", dense_tied, {}, {.tensor = 2, .context = 2, .data = 2, .pipeline = 2}, [](ModelConfig& c) {
         c.sequence_parallel = true, c.virtual_pipeline_model_parallel_size = 2;
       }, eight, ahead},
      {"sharded parameters, everything sparse", experts, {}, {.tensor = 2, .context = 2, .data = 2, .pipeline = 2, .expert = 4, .expert_tensor = 2}, sequence,
       {}, whole},
      {"sharded parameters, query groups shared", dense_tied, {}, {.tensor = 8, .data = 2}, {}, {}, whole},
      {"sharded gradients, tied stages", dense_tied, {}, {.data = 2, .pipeline = 2}, {}, {}, gradients},
      {"sharded parameters, recompute", dense_tied, {}, {.data = 2}, recompute, {}, ahead},
      {"sharded parameters, recompute of stretches", experts, {}, {.data = 2}, [](ModelConfig& c) {
         c.recompute_granularity = "full", c.recompute_method = "uniform", c.recompute_num_layers = 2;
       }, {}, ahead},
      {"sharded parameters, recompute of parts", experts, {}, {.data = 2, .expert = 2}, [](ModelConfig& c) {
         c.recompute_granularity = "selective", c.recompute_modules = {"core_attn", "moe", "layernorm"};
       }, {}, whole},
      {"sharded parameters, prediction layers", hybrid, predictions, {.data = 2, .expert = 2}, {}, {}, ahead},
      {"sharded parameters, tied prediction layers", dense_tied, dense_predictions, {.data = 2}, {}, {}, whole},
      {"sharded parameters, expert bias", experts, bias, {.data = 2}, {}, {}, whole},
      {"distributed optimizer ahead", dense_tied, {}, {.data = 2, .pipeline = 2}, {}, {}, optimizer_ahead},
      {"distributed optimizer ahead, interleaved", dense_untied, {}, {.data = 2, .pipeline = 2}, [](ModelConfig& c) {
         c.virtual_pipeline_model_parallel_size = 2;
       }, eight, optimizer_ahead},
      {"replicas ahead", experts, {}, {.data = 2, .expert = 2}, {}, {}, replicas_ahead},
      {"copies of the optimizer", dense_untied, {}, {.data = 4, .optimizer_instances = 2}, {}, {}, optimizer},
      {"copies of gradients", dense_tied, {}, {.data = 4, .optimizer_instances = 2}, {}, eight, gradients},
      {"copies of parameters", experts, {}, {.data = 8, .expert = 2, .optimizer_instances = 2}, {}, eight, ahead},
      {"copies of parameters over tensor and context ranks", dense_tied, {}, {.tensor = 2, .context = 2, .data = 2, .optimizer_instances = 2}, sequence,
       {}, whole},
      {"copies that share the optimizer", dense_tied, {}, {.data = 6, .optimizer_instances = 3}, {}, six, outer},
      {"copies that share the optimizer, experts", experts, {}, {.data = 8, .expert = 2, .optimizer_instances = 2}, {}, eight, outer},
      {"copies that share the optimizer, stages", dense_tied, {}, {.data = 4, .pipeline = 2, .optimizer_instances = 2}, {}, eight, outer},
      {"expert bias in stages", experts, bias, {.context = 2, .data = 2, .pipeline = 2}, {}},
  };
  std::vector<Row> out;
  for (const Special& special : list) {
    Row row{special.name, special.kind, {special.mesh, tiny(special.kind), special.replicas}, special.data, {}};
    if (special.model) special.model(row.layout.config), row.variant = special.name;
    if (special.layout) special.layout(row.layout.config);
    close(row);
    out.push_back(row);
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Specials, Equality, testing::ValuesIn(specials()), test_name);

// What cannot be exact, or cannot be at all, says why.
TEST(Equality, RefusesWithItsReason) {
  struct Refusal {
    const char* reason;
    Kind kind;
    MeshSizes mesh;
    std::function<void(ModelConfig&)> layout;
  };
  const std::vector<Refusal> list = {
      {"heads of a rank do not divide over 2 context-parallel ranks", Kind::dense_untied, {.tensor = 8, .context = 2},
       [](ModelConfig& c) { c.cp_comm_type = "a2a"; }},
      {"heads of a rank do not divide over 3 context-parallel ranks", Kind::dense_untied, {.context = 6, .context_inner = 3},
       [](ModelConfig& c) { c.cp_comm_type = "a2a+p2p"; }},
      {"runs of 4 do not divide the 6 ranks", Kind::dense_untied, {.context = 6, .context_inner = 4}, [](ModelConfig& c) { c.cp_comm_type = "a2a+p2p"; }},
      {"key heads of a rank's gated delta net do not divide over 3", Kind::hybrid, {.context = 3}, [](ModelConfig& c) { c.cp_comm_type = "a2a"; }},
      {"do not divide into 2 x 5 chunks", Kind::dense_untied, {.context = 5}, {}},
      {"4 layers do not divide over 3 stages", Kind::dense_untied, {.pipeline = 3}, {}},
      {"wants a multiple of the ranks", Kind::dense_untied, {.data = 4, .pipeline = 2}, [](ModelConfig& c) { c.virtual_pipeline_model_parallel_size = 2; }},
      {"4 experts do not divide over 3", Kind::experts, {.data = 3, .expert = 3}, {}},
      {"2 optimizer instances (ddp.num_distributed_optimizer_instances) do not divide the 3 data x context ranks", Kind::dense_untied,
       {.data = 3, .optimizer_instances = 2}, {}},
      {"do not divide the 2 ranks of a pipeline stage", Kind::experts, {.data = 2, .expert = 4}, {}},
  };
  for (const Refusal& refusal : list) {
    Row row{"", refusal.kind, {refusal.mesh, tiny(refusal.kind)}, {}, {}};
    if (refusal.layout) refusal.layout(row.layout.config);
    close(row);
    try {
      train(row.layout, row.data, at::kFloat);
      ADD_FAILURE() << refusal.reason << ": accepted";
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(refusal.reason), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace ponte::equality
