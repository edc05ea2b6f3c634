// A checkpoint Megatron Bridge trained and saved on two ranks, optimizer included: every value arrives in the live objects, and what we save from
// them has the same tensors, bytes and objects.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "convert/weight_source.h"
#include "format/torch_dist.h"

namespace ponte {
namespace {

const fs::path kGolden = fs::path(PONTE_GOLDEN_DIR) / "trained/qwen3_opt_fully_reshardable";
const fs::path kIteration = kGolden / "mcore/iter_0000003";

struct Loaded {
  Config config;
  std::unique_ptr<RankModel> model;
  std::unique_ptr<AdamW> optimizer;
  LoadedRun run;
};

Loaded load_golden() {
  Loaded out;
  out.config.model = WeightSource::open(kIteration)->config();
  out.config.model.bf16 = true;
  out.config.model.params_dtype = DType::bf16;
  out.config.optimizer.lr = 1e-3;
  out.config.optimizer.min_lr = 1e-4;
  out.config.optimizer.adam_beta2 = 0.95;
  out.config.scheduler.use_checkpoint_opt_param_scheduler = true;
  out.model = std::make_unique<RankModel>(out.config.model, single_groups(), ModelOptions{.dtype = at::kBFloat16});
  out.optimizer = std::make_unique<AdamW>(out.model->parameters(), AdamSettings{});
  out.run = load_run(NativeSource(kGolden / "mcore", &out.config.model), out.config, Schedule{}, *out.model, out.optimizer.get());
  return out;
}

void expect_values(const at::Tensor& tensor, const Json& expected, const std::string& what) {
  const at::Tensor flat = tensor.flatten().to(at::kDouble);
  const int64_t n = flat.numel();
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(flat[i].item<double>(), expected.at("first5")[i].get<double>()) << what << " first " << i;
    EXPECT_EQ(flat[n - 5 + i].item<double>(), expected.at("last5")[i].get<double>()) << what << " last " << i;
  }
  const double scale = expected.at("abs_sum").get<double>();
  EXPECT_NEAR(flat.sum().item<double>(), expected.at("sum").get<double>(), 1e-12 * scale) << what;
  EXPECT_NEAR(flat.abs().sum().item<double>(), scale, 1e-12 * scale) << what;
}

TEST(MegatronCheckpoint, EveryOptimizerValueArrives) {
  const Loaded golden = load_golden();
  EXPECT_TRUE(golden.run.has_optimizer);
  EXPECT_FALSE(stored_data(*find_checkpoint(kGolden / "mcore", 0)));
  EXPECT_EQ(golden.run.state.train.step, 3);
  EXPECT_EQ(golden.run.state.train.consumed_train_samples, 12);
  EXPECT_EQ(golden.optimizer->steps(), 3);
  EXPECT_EQ(golden.run.schedule.lr_decay_style, "cosine");
  const Json values = read_json(kGolden / "optimizer_values.json");
  ASSERT_EQ(values.at("params").size(), golden.optimizer->slots().size());
  for (const AdamW::Slot& slot : golden.optimizer->slots()) {
    const std::string& name = slot.parameter->name;
    const Json& expected = values.at("params").at("tp0." + name);
    EXPECT_EQ(slot.decayed, slot.main_param.dim() > 1) << name;
    expect_values(slot.main_param, expected.at("param"), name + " param");
    expect_values(slot.exp_avg, expected.at("exp_avg"), name + " exp_avg");
    expect_values(slot.exp_avg_sq, expected.at("exp_avg_sq"), name + " exp_avg_sq");
    EXPECT_TRUE(at::equal(slot.parameter->value.detach(), slot.main_param.to(at::kBFloat16))) << name;
  }
}

at::Tensor assembled(const TorchDistReader& reader, const TorchDistTensor& tensor) {
  const at::ScalarType type = tensor.dtype == DType::bf16 ? at::kBFloat16 : at::kFloat;
  at::Tensor out = at::empty(tensor.shape, type);
  for (const TorchDistChunk& chunk : tensor.chunks) {
    const ChunkBytes bytes = reader.bytes(tensor, chunk, CheckCrc::yes);
    const at::Tensor part = at::from_blob(const_cast<std::byte*>(bytes.bytes.data()), chunk.sizes, type);
    at::Tensor target = out;
    for (size_t d = 0; d < chunk.sizes.size(); ++d) target = target.narrow(static_cast<int64_t>(d), chunk.offsets[d], chunk.sizes[d]);
    target.copy_(part);
  }
  return out;
}

TEST(MegatronCheckpoint, SavedAgainItHasTheSameTensorsAndObjects) {
  Loaded golden = load_golden();
  golden.run.state.data = {.train_fingerprint = "a", .valid_fingerprint = "b", .requested_train_samples = 400, .order = "megatron"};
  const fs::path root = fs::temp_directory_path() / format("ponte_golden_{}", getpid());
  fs::remove_all(root);
  const fs::path folder = save_checkpoint(root, {.config = golden.config, .model = *golden.model, .optimizer = golden.optimizer.get(),
                                                 .schedule = &golden.run.schedule, .state = golden.run.state, .tokenizer_folder = kGolden / "hf"});
  const TorchDistReader ours(folder), theirs(kIteration);
  ASSERT_EQ(ours.tensors().size(), theirs.tensors().size());
  for (const TorchDistTensor& tensor : theirs.tensors()) {
    const TorchDistTensor& mine = ours.at(tensor.name);
    ASSERT_EQ(mine.dtype, tensor.dtype) << tensor.name;
    ASSERT_EQ(mine.shape, tensor.shape) << tensor.name;
    EXPECT_TRUE(at::equal(assembled(ours, mine), assembled(theirs, tensor))) << tensor.name;
  }
  std::vector<std::string> our_objects = ours.objects(), their_objects = theirs.objects();
  std::sort(our_objects.begin(), our_objects.end());
  std::sort(their_objects.begin(), their_objects.end());
  EXPECT_EQ(our_objects, their_objects);
  for (const char* name :
       {"common.pt", "metadata.json", "train_state.pt", "run_config.yaml", "tokenizer/tokenizer.json", "ponte/run.json", "ponte/manifest.json"})
    EXPECT_TRUE(fs::exists(folder / name)) << name;

  // And once more into fresh objects: the same values, now with a record of the data.
  Loaded again = load_golden();
  const LoadedRun run = load_run(NativeSource(root, &again.config.model), again.config, golden.run.schedule, *again.model, again.optimizer.get());
  ASSERT_TRUE(stored_data(*find_checkpoint(root, 0)));
  EXPECT_EQ(stored_data(*find_checkpoint(root, 0))->requested_train_samples, 400);
  EXPECT_EQ(run.state.schedule_steps, 12);
  for (size_t i = 0; i < again.optimizer->slots().size(); ++i) {
    EXPECT_TRUE(at::equal(again.optimizer->slots()[i].main_param, golden.optimizer->slots()[i].main_param));
    EXPECT_TRUE(at::equal(again.optimizer->slots()[i].exp_avg_sq, golden.optimizer->slots()[i].exp_avg_sq));
  }
  fs::remove_all(root);
}

TEST(MegatronCheckpoint, AnotherModelIsRefused) {
  Loaded golden = load_golden();
  golden.config.model.ffn_hidden_size = 128;
  RankModel other(golden.config.model, single_groups(), ModelOptions{.dtype = at::kBFloat16});
  try {
    other.load(*WeightSource::open(kGolden / "mcore", other.config()));
    FAIL() << "loaded weights of another shape";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("linear_fc1"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace ponte
