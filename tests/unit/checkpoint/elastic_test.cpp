// The elastic matrix: weights and optimizer state saved under any layout load under any other, every value to the bit. Ranks are threads; what a rank should
// hold follows from the weights' names and seed alone, so each rank checks its own.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <functional>

#include "base/errors.h"
#include "base/file.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "comm/thread_group.h"
#include "convert/weight_source.h"
#include "parallel/data_parallel.h"
#include "test_device.h"

namespace ponte {
namespace {

constexpr uint64_t kSeed = 11;

struct Layout {
  const char* name;
  MeshSizes mesh;
  int64_t chunks = 0;  // virtual_pipeline_model_parallel_size
  Sharding sharding = Sharding::nothing;
  Copies copies = Copies::keep_all;
};

constexpr auto kDistributed = Sharding::optimizer;

std::vector<Layout> dense_layouts() {
  return {{"one", {}},
          {"tp2", {.tensor = 2}},
          {"tp4", {.tensor = 4}},
          {"pp2", {.pipeline = 2}},
          {"pp2 vpp2", {.pipeline = 2}, 2},
          {"cp2", {.context = 2}},
          {"dp2", {.data = 2}},
          {"dp3, distributed", {.data = 3}, 0, kDistributed},
          {"tp2 pp2 dp2, distributed", {.tensor = 2, .data = 2, .pipeline = 2}, 0, kDistributed},
          {"tp2 cp2, distributed", {.tensor = 2, .context = 2}, 0, kDistributed},
          {"dp2, gradients shared out", {.data = 2}, 0, Sharding::gradients},
          {"dp3 pp2, parameters shared out", {.data = 3, .pipeline = 2}, 0, Sharding::parameters},
          {"tp2 dp2, parameters shared out", {.tensor = 2, .data = 2}, 0, Sharding::parameters},
          {"dp4, copies that share the optimizer", {.data = 4, .optimizer_instances = 2}, 0, Sharding::parameters, Copies::share_optimizer}};
}

std::vector<Layout> sparse_layouts() {
  return {{"one", {}},
          {"ep2", {.data = 2, .expert = 2}},
          {"ep4, distributed", {.data = 4, .expert = 4}, 0, kDistributed},
          {"tp2 etp2", {.tensor = 2, .expert_tensor = 2}},
          {"tp2 ep2", {.tensor = 2, .expert = 2}},
          {"tp2 dp2 ep2 etp2, distributed", {.tensor = 2, .data = 2, .expert = 2, .expert_tensor = 2}, 0, kDistributed},
          {"pp2 dp2 ep2, distributed", {.data = 2, .pipeline = 2, .expert = 2}, 0, kDistributed},
          {"dp4 ep2, parameters shared out", {.data = 4, .expert = 2}, 0, Sharding::parameters}};
}

std::vector<Layout> hybrid_layouts() {
  return {{"one", {}},
          {"tp2", {.tensor = 2}},
          {"pp2 vpp2", {.pipeline = 2}, 2},
          {"tp2 dp2 ep2, distributed", {.tensor = 2, .data = 2, .expert = 2}, 0, kDistributed}};
}

Config config_of(const std::string& golden) {
  Config out;
  out.model = WeightSource::open(fs::path(PONTE_GOLDEN_DIR) / golden / "hf")->config();
  out.model.num_layers = 4;
  if (!out.model.moe_layer_freq.empty()) out.model.moe_layer_freq.resize(4, 1);
  if (!out.model.layer_types.empty()) out.model.layer_types.resize(4, "full_attention");
  out.model.hf_config_json.clear();
  out.scheduler.use_checkpoint_opt_param_scheduler = true;
  out.checkpoint.save_rng = false;
  return out;
}

// A rank's share of a run under a layout.
struct Rank {
  Config config;
  RankModel model;
  DataParallel replicas;
  AdamW optimizer;

  Rank(const Config& base, const Layout& layout, const Groups& groups)
      : config(laid_out(base, layout)), model(config.model, groups, {.device = test_device()}),
        replicas(model.chunks(), groups, {.sharding = layout.sharding, .copies = layout.copies, .bucket_elements = 3000}), optimizer(parts(), {}) {}

  static Config laid_out(Config config, const Layout& layout) {
    config.model.tensor_model_parallel_size = layout.mesh.tensor;
    config.model.context_parallel_size = layout.mesh.context;
    config.model.pipeline_model_parallel_size = layout.mesh.pipeline;
    config.model.virtual_pipeline_model_parallel_size = layout.chunks;
    config.model.expert_model_parallel_size = layout.mesh.expert;
    config.model.expert_tensor_parallel_size = layout.mesh.expert_tensor;
    return config;
  }
  std::vector<AdamW::Part> parts() const {
    std::vector<AdamW::Part> out;
    for (const DataParallel::Share& share : replicas.shares()) out.push_back({share.parameter, share.rows, {}});
    return out;
  }
  // State that is another function of each weight.
  void fill() {
    model.initialize(kSeed);
    optimizer.main_params_from_values();
    for (AdamW::Slot& slot : optimizer.slots()) {
      slot.exp_avg.copy_(slot.main_param * 3);  // rows that only pad the vocabulary stay zero
      slot.exp_avg_sq.copy_(slot.main_param * slot.main_param);
    }
    optimizer.set_steps(7);
  }
};

void save(const fs::path& root, const Config& base, const Layout& layout, const std::function<void(const Groups&)>& afterwards = {}) {
  run_ranks(Mesh(layout.mesh), [&](const Groups& groups) {
    Rank rank(base, layout, groups);
    rank.fill();
    RunState state;
    state.train.step = 1;
    state.optimizer_steps = rank.optimizer.steps();
    std::vector<SavedRows> rows;
    for (const DataParallel::Share& share : rank.replicas.shares()) rows.push_back({share.parameter, share.own});
    const Schedule schedule;
    save_checkpoint(root, {.config = rank.config, .model = rank.model, .optimizer = &rank.optimizer, .schedule = &schedule, .state = state,
                           .world = groups.world.get(), .rows = rows});
    if (afterwards) afterwards(groups);
  });
}

void expect_loads(const fs::path& root, const Config& base, const Layout& layout, const std::string& what) {
  run_ranks(Mesh(layout.mesh), [&](const Groups& groups) {
    const at::NoGradGuard off;
    Rank loaded(base, layout, groups), wanted(base, layout, groups);
    wanted.fill();
    const LoadedRun run = load_run(NativeSource(root, &loaded.config.model), loaded.config, Schedule{}, loaded.model, &loaded.optimizer);
    EXPECT_TRUE(run.has_optimizer && run.state.optimizer_steps == 7) << what;
    for (size_t i = 0; i < loaded.model.parameters().size(); ++i)
      EXPECT_TRUE(at::equal(loaded.model.parameters()[i]->kept_value.tensor, wanted.model.parameters()[i]->kept_value.tensor))
          << what << ": " << loaded.model.parameters()[i]->name;
    for (size_t i = 0; i < loaded.optimizer.slots().size(); ++i) {
      const AdamW::Slot &mine = loaded.optimizer.slots()[i], &other = wanted.optimizer.slots()[i];
      EXPECT_TRUE(at::equal(mine.main_param, other.main_param)) << what << ": " << mine.parameter->name;
      EXPECT_TRUE(at::equal(mine.exp_avg, other.exp_avg)) << what << ": " << mine.parameter->name;
      EXPECT_TRUE(at::equal(mine.exp_avg_sq, other.exp_avg_sq)) << what << ": " << mine.parameter->name;
    }
  });
}

void run_matrix(const std::string& golden, const std::vector<Layout>& layouts) {
  at::set_num_threads(1);
  const Config config = config_of(golden);
  for (const Layout& from : layouts) {
    const fs::path root = fs::temp_directory_path() / format("ponte_elastic_{}", getpid());
    fs::remove_all(root);
    save(root, config, from);
    for (const Layout& to : layouts) expect_loads(root, config, to, format("{}: saved under {}, loaded under {}", golden, from.name, to.name));
    fs::remove_all(root);
    if (testing::Test::HasFailure()) return;
  }
}

// Collective bytes of all ranks, and the file of all weights, of a save under a layout.
std::pair<int64_t, std::string> traffic_and_weights(Config config, const Layout& layout, bool save_hf) {
  const fs::path root = fs::temp_directory_path() / format("ponte_elastic_{}", getpid());
  fs::remove_all(root);
  config.checkpoint.save_hf = save_hf;
  std::atomic<int64_t> bytes{0};
  save(root, config, layout, [&](const Groups& groups) {
    for (size_t kind = 0; kind < kCollectives; ++kind) bytes += groups.world->traffic(static_cast<Collective>(kind)).bytes;
  });
  const fs::path file = root / "iter_0000001/hf/model.safetensors";
  std::string weights = fs::exists(file) ? read_file(file) : "";
  fs::remove_all(root);
  return {bytes, std::move(weights)};
}

TEST(SavingForHuggingFace, NoRankIsSentTheModel) {
  at::set_num_threads(1);
  const Config config = config_of("qwen3_v515");
  const Layout one{"one", {}}, many{"tp2 pp2", {.tensor = 2, .pipeline = 2}};
  const auto [without, none] = traffic_and_weights(config, many, false);
  const auto [with, weights] = traffic_and_weights(config, many, true);
  EXPECT_EQ(none, "");
  EXPECT_EQ(with, without);
  EXPECT_EQ(weights, traffic_and_weights(config, one, true).second);
  EXPECT_GT(weights.size(), 400'000u);
}

TEST(ElasticMatrix, DenseWithAnOddVocabulary) { run_matrix("qwen3_v515", dense_layouts()); }
TEST(ElasticMatrix, Experts) { run_matrix("qwen3_moe", sparse_layouts()); }
TEST(ElasticMatrix, GatedDeltaNets) { run_matrix("qwen3_next", hybrid_layouts()); }

}  // namespace
}  // namespace ponte
