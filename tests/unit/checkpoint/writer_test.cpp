// Saving beside training: what is written is what there was, one buffer serves every save, and a save that fails or is left leaves the last good one.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/errors.h"
#include "checkpoint/layout.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "convert/weight_source.h"
#include "format/torch_dist.h"
#include "test_device.h"

namespace ponte {
namespace {

struct Training {
  Config config;
  std::unique_ptr<RankModel> model;
  std::unique_ptr<AdamW> optimizer;
  Schedule schedule;
  RunState state;
  fs::path root = fs::temp_directory_path() / format("ponte_writer_{}", getpid());

  explicit Training(at::ScalarType dtype) {
    const fs::path golden = fs::path(PONTE_GOLDEN_DIR) / "qwen3/hf";
    config.model = WeightSource::open(golden)->config();
    model = std::make_unique<RankModel>(config.model, single_groups(), ModelOptions{.device = test_device(), .dtype = dtype});
    model->load(*WeightSource::open(golden, config.model));
    optimizer = std::make_unique<AdamW>(model->parameters(), AdamSettings{});
    fs::remove_all(root);
  }
  ~Training() { fs::remove_all(root); }

  CheckpointContent content() { return {.config = config, .model = *model, .optimizer = optimizer.get(), .schedule = &schedule, .state = state}; }
  // As an optimizer would: in place.
  void step() {
    const at::NoGradGuard off;
    ++state.train.step;
    for (AdamW::Slot& slot : optimizer->slots()) {
      slot.exp_avg.add_(1.0);
      slot.value.add_(0.5);
    }
  }
};

int64_t resident_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "VmRSS:") return status >> word, std::stoll(word);
  return 0;
}

double first_moment(const fs::path& folder) {
  const TorchDistReader reader(folder);
  const TorchDistTensor& tensor = reader.at("optimizer.state.exp_avg.decoder.final_layernorm.weight");
  float value = 0;
  std::memcpy(&value, reader.bytes(tensor, tensor.chunks[0], CheckCrc::yes).bytes.data(), sizeof value);
  return value;
}

TEST(CheckpointWriter, HundredSavesBesideTrainingInOneBuffer) {
  Training training(at::kFloat);
  CheckpointWriter writer;
  int64_t after_ten = 0;
  uint64_t buffer = 0;
  for (int64_t save = 1; save <= 100; ++save) {
    training.step();
    const auto published = writer.finish(Wait::yes);
    ASSERT_EQ(published ? published->iteration : 0, save - 1);
    writer.begin(training.root, training.content(), Staging::copied);
    remove_old_checkpoints(training.root, 1, -1, 0);
    if (save == 1) buffer = writer.staged_bytes();
    if (save == 10) after_ten = resident_kib();
  }
  const int64_t growth = resident_kib() - after_ten;
  training.step();  // while the last is written
  ASSERT_TRUE(writer.finish(Wait::yes));
  EXPECT_EQ(writer.staged_bytes(), buffer);
  // Weights, which are their own main parameters in fp32, and two moments: three copies and the rounding of each to 64 bytes.
  EXPECT_LT(buffer, 3 * 4 * static_cast<uint64_t>(training.model->parameter_count()) + 64 * 3 * training.model->parameters().size());
  EXPECT_LT(growth, static_cast<int64_t>(buffer >> 10) * 3) << "KiB in 90 saves of " << buffer << " bytes";
  EXPECT_EQ(first_moment(find_checkpoint(training.root, 0)->folder), 100.0);
}

TEST(CheckpointWriter, WritesWhatThereWas) {
  Training training(at::kBFloat16);
  training.step();
  const CheckpointContent content = training.content();
  save_checkpoint(training.root / "held", content);
  CheckpointWriter writer;
  writer.begin(training.root / "beside", content, Staging::copied);
  for (int i = 0; i < 3; ++i) training.step();
  ASSERT_TRUE(writer.finish(Wait::yes));
  for (const char* name : {"__0_0.distcp", "__0_1.distcp", ".metadata", "common.pt", "train_state.pt", "ponte/manifest.json", "ponte/run.json"})
    EXPECT_EQ(read_file(training.root / "held/iter_0000001" / name), read_file(training.root / "beside/iter_0000001" / name)) << name;
}

TEST(CheckpointWriter, LeftOrFailedItLeavesTheLastOne) {
  Training training(at::kFloat);
  training.step();
  save_checkpoint(training.root, training.content());
  training.step();
  {
    CheckpointWriter writer;
    writer.begin(training.root, training.content(), Staging::copied);
  }  // as when an error ends the run
  EXPECT_EQ(iterations_in(training.root), std::vector<int64_t>{1});
  CheckpointWriter writer;
  training.config.checkpoint.save_hf = true;
  training.config.model.hf_architecture = "NoSuchModel";  // a failure of what one rank writes last
  writer.begin(training.root, training.content(), Staging::copied);
  EXPECT_THROW(writer.finish(Wait::yes), UserError);
  EXPECT_FALSE(writer.under_way());
  EXPECT_EQ(iterations_in(training.root), std::vector<int64_t>{1});
  EXPECT_EQ(find_checkpoint(training.root, 0)->iteration, 1);
  EXPECT_EQ(first_moment(find_checkpoint(training.root, 0)->folder), 1.0);
}

}  // namespace
}  // namespace ponte
