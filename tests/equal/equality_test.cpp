// Parallelism changes no number: over every axis and every pair of axes, losses, gradient norms, every parameter's gradient and the weights after three steps
// equal one process's, norm-relative per tensor, 1e-5 in fp32 and 1e-12 in fp64. Ranks are threads.
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
      {"dp", "data", [](Layout& l) { l.mesh.data *= 2; }},
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

const char* name_of(Kind kind) { return kind == Kind::dense_tied ? "tied" : kind == Kind::dense_untied ? "untied" : "experts"; }

std::vector<Row> axes_and_pairs() {
  std::vector<Row> out;
  const auto add = [&](Kind kind, const std::vector<const Axis*>& chosen) {
    Row row{name_of(kind), kind, {{}, tiny(kind)}, {}};
    for (const Axis* axis : chosen) {
      if (axis->experts_only && kind != Kind::experts) return;
      row.name += " " + axis->name;
      axis->apply(row.layout);
    }
    row.data.micro_batches = std::max<int64_t>(4, row.layout.mesh.data * (row.layout.config.virtual_pipeline_model_parallel_size > 0 ? 2 : 1));
    close(row);
    out.push_back(row);
  };
  for (const Kind kind : {Kind::dense_tied, Kind::dense_untied, Kind::experts})
    for (size_t i = 0; i < axes().size(); ++i) {
      add(kind, {&axes()[i]});
      for (size_t j = i + 1; j < axes().size(); ++j)
        if (axes()[i].family != axes()[j].family && !(axes()[i].name == "tp8" && axes()[j].name == "cp exchanging")) add(kind, {&axes()[i], &axes()[j]});
    }
  return out;
}

class Equality : public testing::TestWithParam<Row> {};

// One process's run of the same model and data, which many rows share.
const Outcome& alone(const Row& row, at::ScalarType type) {
  static std::map<std::string, Outcome> runs;
  ModelConfig config = row.layout.config;
  for (int64_t* size : {&config.tensor_model_parallel_size, &config.pipeline_model_parallel_size, &config.context_parallel_size, &config.expert_model_parallel_size,
                        &config.expert_tensor_parallel_size})
    *size = 1;
  config.sequence_parallel = false;
  config.recompute_granularity = config.recompute_method = "";
  const std::string key = format("{} {} {}{}{} {} {} {} {} {} {} {}", row.kind, type, row.data.uneven, row.data.packed, row.data.padded, row.data.micro_batches,
                                 config.vocab_size, config.moe_router_load_balancing_type, config.moe_expert_capacity_factor.value_or(0),
                                 config.moe_router_enable_expert_bias, config.moe_shared_expert_intermediate_size, config.window_size.value_or(0));
  const auto [place, is_new] = runs.try_emplace(key);
  if (is_new) place->second = train({{}, config}, row.data, type);
  return place->second;
}

TEST_P(Equality, LossGradientsAndWeights) {
  const Row& row = GetParam();
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kFloat, 1e-5}, {at::kDouble, 1e-12}}) {
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

}  // namespace
}  // namespace ponte::equality
