// Saving and loading take host memory for some blocks, whatever the model: every byte that LibTorch or operator new gives out is counted. Ranks are threads
// of one process, so what is counted is of both together.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

#include "base/environment.h"
#include "base/format.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "comm/thread_group.h"
#include "equal/counting_allocator.h"
#include "models.h"
#include "parallel/data_parallel.h"

namespace {
ponte::PeakCounter heap;  // of operator new
}

void* operator new(size_t size) {
  void* out = std::malloc(size);
  if (!out) throw std::bad_alloc();
  heap.add(static_cast<int64_t>(malloc_usable_size(out)));
  return out;
}
void operator delete(void* block) noexcept {
  if (block) heap.add(-static_cast<int64_t>(malloc_usable_size(block)));
  std::free(block);
}
void operator delete(void* block, size_t) noexcept { operator delete(block); }

namespace ponte {
namespace {

constexpr int64_t kMiB = 1 << 20, kRanks = 2;
// Of each rank: a block for each thread that reads, and those on their way to the disk (convert/write_queue.h); and tables.
int64_t some_blocks() { return (kRanks * (13 + default_threads()) + 6) * kMiB; }
// Nothing is on its way to anywhere.
int64_t few_blocks() { return (kRanks * 2 * default_threads() + 6) * kMiB; }

struct Case {
  const char* name;
  const char* format;
  MeshSizes mesh;
  Sharding sharding = Sharding::nothing;
  bool for_hf = false;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

Config config_of(const Case& c) {
  Config out;
  out.model = models::qwen3({.layers = 6, .hidden = 512, .ffn = 2048, .heads = 8, .groups = 4, .head_dim = 64, .vocabulary = 20000});
  out.model.tensor_model_parallel_size = c.mesh.tensor;
  out.model.params_dtype = DType::bf16;
  out.checkpoint.ckpt_format = c.format;
  out.checkpoint.save_hf = c.for_hf;
  out.scheduler.use_checkpoint_opt_param_scheduler = true;
  return out;
}

struct Rank {
  Config config;
  Groups groups;
  RankModel model;
  DataParallel replicas;
  AdamW optimizer;
  std::vector<SavedRows> rows;
  Schedule schedule;
  RunState state;

  Rank(const Case& c, const Groups& all)
      : config(config_of(c)), groups(all), model(config.model, groups, {.dtype = at::kBFloat16, .parameters = Allocation::later}),
        replicas(model.chunks(), groups, {.sharding = c.sharding}), optimizer(parts(), {}) {
    for (const DataParallel::Share& share : replicas.shares()) rows.push_back({share.parameter, share.own});
    state.train.step = 1;
  }
  std::vector<AdamW::Part> parts() const {
    std::vector<AdamW::Part> out;
    for (const DataParallel::Share& share : replicas.shares()) out.push_back({share.parameter, share.rows, {}});
    return out;
  }
  CheckpointContent content() {
    return {.config = config, .model = model, .optimizer = &optimizer, .schedule = &schedule, .state = state, .world = groups.world.get(), .rows = rows};
  }
};

// What all ranks take while they run `body`, at most; on rank 0, -1 elsewhere.
int64_t taken(Group& world, const std::function<void()>& body) {
  world.barrier();
  if (world.rank() == 0) heap.restart(), counter().restart();
  const int64_t before = heap.live() + counter().live();
  world.barrier();
  body();
  world.barrier();
  return world.rank() == 0 ? heap.peak() + counter().peak() - before : -1;
}

class HostMemory : public testing::TestWithParam<Case> {};

TEST_P(HostMemory, SavingAndLoadingTakeSomeBlocks) {
  counter();
  const Case& c = GetParam();
  const fs::path root = fs::temp_directory_path() / format("ponte_host_memory_{}", getpid());
  fs::remove_all(root);
  run_ranks(Mesh(c.mesh), [&](const Groups& groups) {
    Rank rank(c, groups);
    const bool looks = groups.world->rank() == 0;
    const int64_t saving = taken(*groups.world, [&] { save_checkpoint(root, rank.content()); });
    const fs::path folder = root / "iter_0000001";
    const auto found = find_checkpoint(root, 0);
    const int64_t loading = taken(*groups.world, [&] {
      load_run(NativeSource(found->folder, &rank.config.model), rank.config, rank.schedule, rank.model, &rank.optimizer);
    });
    const int64_t from_hf = !c.for_hf ? 0 : taken(*groups.world, [&] { rank.model.load(*WeightSource::open(folder / "hf", rank.config.model)); });
    if (!looks) return;
    int64_t written = 0;
    for (const auto& file : fs::directory_iterator(folder))
      if (file.path().extension() == ".distcp") written += static_cast<int64_t>(file.file_size());
    EXPECT_GT(written, 450 * kMiB);
    EXPECT_LT(saving, some_blocks());
    EXPECT_LT(loading, few_blocks());
    EXPECT_LT(from_hf, few_blocks());
    RecordProperty("saving", std::to_string(saving));
    RecordProperty("loading", std::to_string(loading));
    RecordProperty("from_hf", std::to_string(from_hf));
  });
  fs::remove_all(root);
}

INSTANTIATE_TEST_SUITE_P(Table, HostMemory,
                         testing::Values(Case{"torch_dist and Hugging Face, tp2", "torch_dist", {.tensor = kRanks}, Sharding::nothing, true},
                                         Case{"torch_dist, dp2, optimizer shared out", "torch_dist", {.data = kRanks}, Sharding::optimizer},
                                         Case{"torch_dist, dp2, parameters shared out", "torch_dist", {.data = kRanks}, Sharding::parameters},
                                         Case{"fsdp_dtensor, dp2, parameters shared out", "fsdp_dtensor", {.data = kRanks}, Sharding::parameters}));

// Beside training a save holds one copy of what a rank writes; the next one takes nothing more.
TEST(HostMemory, SavingBesideTrainingHoldsOneCopy) {
  counter();
  const Case c{"", "torch_dist", {.data = kRanks}, Sharding::optimizer};
  const fs::path root = fs::temp_directory_path() / format("ponte_host_memory_{}", getpid());
  fs::remove_all(root);
  run_ranks(Mesh(c.mesh), [&](const Groups& groups) {
    Rank rank(c, groups);
    CheckpointWriter writer;
    const auto save = [&] {
      writer.begin(root, rank.content(), Staging::copied);
      writer.finish(Wait::yes);
    };
    const int64_t first = taken(*groups.world, save), second = taken(*groups.world, save);
    const at::Tensor copies = at::full({1}, static_cast<double>(writer.staged_bytes()), at::kDouble);
    const double both = groups.world->all_gather(copies).sum().item<double>();
    if (groups.world->rank() != 0) return;
    EXPECT_GT(both, 450 * kMiB);
    EXPECT_LT(first, both + some_blocks());
    EXPECT_LT(second, some_blocks());
  });
  fs::remove_all(root);
}

}  // namespace
}  // namespace ponte
