#include "checkpoint/save.h"

#include <ATen/CPUGeneratorImpl.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/layout.h"
#include "checkpoint/run_record.h"
#include "checkpoint/tensor_dtype.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/weight_sink.h"
#include "families/registry.h"
#include "format/torch_dist.h"

namespace ponte {
namespace {

constexpr int64_t kMaxShardBytes = 5'000'000'000;  // of HF safetensors files
LiveShard shard(std::string prefix, const Parameter& parameter, const at::Tensor& tensor) {
  PONTE_ASSERT(tensor.is_contiguous() && tensor.device().is_cpu());
  return {.prefix = std::move(prefix), .rule = parameter.rule, .slice = parameter.slice, .dtype = dtype_of(tensor.scalar_type()),
          .bytes = [&tensor] { return std::span(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()); }};
}

std::vector<LiveShard> weight_shards(Model& model) {
  std::vector<LiveShard> out;
  for (const Parameter* parameter : model.parameters()) out.push_back(shard("", *parameter, parameter->value));
  return out;
}

void append_optimizer_shards(AdamW& optimizer, std::vector<LiveShard>& out) {
  for (const AdamW::Slot& slot : optimizer.slots()) {
    out.push_back(shard("optimizer.state.param.", *slot.parameter, slot.main_param));
    out.push_back(shard("optimizer.state.exp_avg.", *slot.parameter, slot.exp_avg));
    out.push_back(shard("optimizer.state.exp_avg_sq.", *slot.parameter, slot.exp_avg_sq));
  }
}

std::string torch_generator_state() {
  const at::Tensor state = at::detail::getDefaultCPUGenerator().get_state();
  return std::string(static_cast<const char*>(state.const_data_ptr()), state.nbytes());
}

void copy_tokenizer(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  for (const std::string& name : tokenizer_files(from)) write_file_atomically(to / name, read_file(from / name));
}

// What lets export and verify work from the checkpoint alone.
void write_kept_files(const fs::path& folder, const CheckpointContent& c) {
  fs::create_directories(folder / kKeptFolder);
  write_file_atomically(folder / kKeptFolder / "config.json", dump_json(hf_config_from_model(c.config.model)));
  write_file_atomically(folder / kRunRecord, dump_json(run_record_json(c.state)));
  const fs::path generation = c.tokenizer_folder / "generation_config.json";
  if (!c.tokenizer_folder.empty() && fs::exists(generation)) write_file_atomically(folder / kKeptFolder / "generation_config.json", read_file(generation));
}

void write_content(const fs::path& folder, const CheckpointContent& c) {
  const RuleTable table = rule_table(c.config.model);
  std::vector<LiveShard> shards = weight_shards(c.model);
  if (c.config.checkpoint.save_hf) {
    fs::create_directories(folder / "hf");
    save_hf(folder / "hf", c.config.model, table, shards, kMaxShardBytes);
    if (!c.tokenizer_folder.empty()) restore_hf_files(c.tokenizer_folder, folder / "hf");
  }
  if (c.optimizer) append_optimizer_shards(*c.optimizer, shards);
  std::vector<LiveObject> objects;
  if (c.config.checkpoint.save_rng)
    objects.push_back({"rng_state/shard_0.0_1.1", write_torch_archive(rng_state_value(c.config.rng.seed, torch_generator_state()))});
  save_torch_dist(folder, c.config.model, table, shards, objects);
  save_torch_file(folder / "common.pt", common_state_value(c.config, c.state, c.optimizer ? c.schedule : nullptr));
  save_torch_file(folder / "train_state.pt", train_state_value(c.state.train));
  write_file_atomically(folder / "run_config.yaml", bridge_run_config_yaml(c.config));
  write_kept_files(folder, c);
  if (!c.tokenizer_folder.empty() && c.config.checkpoint.save_tokenizer_assets) copy_tokenizer(c.tokenizer_folder, folder / "tokenizer");
  write_file_atomically(folder / "metadata.json", metadata_json());  // last: its presence says "this is a checkpoint"
}

}  // namespace

fs::path save_checkpoint(const fs::path& root, const CheckpointContent& content) {
  const int64_t iteration = content.state.train.step;
  fs::create_directories(root);
  StagedDirectory staged(root / iteration_folder_name(iteration), StagedDirectory::Existing::replace);
  write_content(staged.path(), content);
  staged.publish();
  write_file_atomically(root / kLatestTrainState, read_file(staged.target() / "train_state.pt"));
  write_file_atomically(root / kLatestIteration, format("{}", iteration));
  return staged.target();
}

}  // namespace ponte
