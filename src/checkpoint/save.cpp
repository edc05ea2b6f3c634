#include "checkpoint/save.h"

#include <ATen/CPUGeneratorImpl.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/layout.h"
#include "checkpoint/run_record.h"
#include "checkpoint/tensor_dtype.h"
#include "comm/ranks.h"
#include "convert/convert.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/weight_sink.h"
#include "families/registry.h"
#include "format/torch_dist.h"

namespace ponte {
namespace {

constexpr int64_t kMaxShardBytes = 5'000'000'000;  // of HF safetensors files

// The tensor holds rows `held` of the parameter; `saved`, inside them, are written.
LiveShard shard(std::string prefix, const Parameter& parameter, const at::Tensor& tensor, Rows held, Rows saved) {
  PONTE_ASSERT(tensor.is_contiguous() && tensor.device().is_cpu() && held.begin <= saved.begin && saved.end <= held.end);
  const at::Tensor part = tensor.narrow(0, saved.begin - held.begin, saved.count());
  const bool whole = saved.count() == parameter.slice.shape[0];
  return {.prefix = std::move(prefix), .rule = parameter.rule, .slice = whole ? parameter.slice : rows_of(parameter.slice, saved),
          .dtype = dtype_of(tensor.scalar_type()),
          .bytes = [part] { return std::span(static_cast<const std::byte*>(part.const_data_ptr()), part.nbytes()); }};
}

using RowsOf = std::map<const Parameter*, Rows>;

RowsOf saved_rows(const CheckpointContent& c) {
  RowsOf out;
  for (const SavedRows& saved : c.rows) out.emplace(saved.parameter, saved.rows);
  if (c.rows.empty())
    for (const Parameter* parameter : c.model.parameters()) out.emplace(parameter, Rows{0, parameter->slice.shape[0]});
  return out;
}

bool is_saved(const Parameter& parameter, const RowsOf& rows) {
  const auto saved = rows.find(&parameter);
  return saved != rows.end() && saved->second.count() > 0 && !parameter.is_copy;
}

std::vector<LiveShard> weight_shards(RankModel& model, const RowsOf& rows) {
  std::vector<LiveShard> out;
  for (const Parameter* parameter : model.parameters())
    if (is_saved(*parameter, rows)) out.push_back(shard("", *parameter, parameter->value.detach(), {0, parameter->slice.shape[0]}, rows.at(parameter)));
  return out;
}

void append_optimizer_shards(AdamW& optimizer, const RowsOf& rows, std::vector<LiveShard>& out) {
  for (const AdamW::Slot& slot : optimizer.slots()) {
    if (!is_saved(*slot.parameter, rows)) continue;
    const Rows saved = rows.at(slot.parameter);
    out.push_back(shard("optimizer.state.param.", *slot.parameter, slot.main_param, slot.rows, saved));
    out.push_back(shard("optimizer.state.exp_avg.", *slot.parameter, slot.exp_avg, slot.rows, saved));
    out.push_back(shard("optimizer.state.exp_avg_sq.", *slot.parameter, slot.exp_avg_sq, slot.rows, saved));
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
  for (const std::string& origin : {c.config.checkpoint.pretrained_checkpoint, c.config.checkpoint.load}) pass_on_hf_storage(origin, folder);
  const fs::path generation = c.tokenizer_folder / "generation_config.json";
  if (!c.tokenizer_folder.empty() && fs::exists(generation)) write_file_atomically(folder / kKeptFolder / "generation_config.json", read_file(generation));
}

// Hugging Face's files: from memory where this rank holds the whole model, else from what the ranks have just written.
void write_hf(const fs::path& folder, const CheckpointContent& c) {
  if (c.world && c.world->size() > 1) {
    export_checkpoint({.megatron_path = folder, .hf_path = folder / "hf", .max_shard_bytes = kMaxShardBytes});
    return;
  }
  fs::create_directories(folder / "hf");
  save_hf(folder / "hf", c.config.model, c.model.rules(), weight_shards(c.model, saved_rows(c)), kMaxShardBytes);
  if (!c.tokenizer_folder.empty()) restore_hf_files(c.tokenizer_folder, folder / "hf");
}

// What every rank writes: its share of the tensors.
SavedPart write_share(const fs::path& folder, const CheckpointContent& c) {
  const RowsOf rows = saved_rows(c);
  const int64_t rank = c.world ? c.world->rank() : 0;
  std::vector<LiveShard> shards = weight_shards(c.model, rows);
  if (c.optimizer) append_optimizer_shards(*c.optimizer, rows, shards);
  std::vector<LiveObject> objects;
  if (c.config.checkpoint.save_rng && rank == 0)
    objects.push_back({"rng_state/shard_0.0_1.1", write_torch_archive(rng_state_value(c.config.rng.seed, torch_generator_state()))});
  return save_torch_dist_part(folder, rank, c.config.model, c.model.rules(), shards, objects);
}

// What one rank writes.
void write_rest(const fs::path& folder, const CheckpointContent& c, const std::vector<SavedPart>& parts) {
  join_torch_dist_parts(folder, parts);
  save_torch_file(folder / "common.pt", common_state_value(c.config, c.state, c.optimizer ? c.schedule : nullptr));
  save_torch_file(folder / "train_state.pt", train_state_value(c.state.train));
  write_file_atomically(folder / "run_config.yaml", bridge_run_config_yaml(c.config));
  write_kept_files(folder, c);
  if (!c.tokenizer_folder.empty() && c.config.checkpoint.save_tokenizer_assets) copy_tokenizer(c.tokenizer_folder, folder / "tokenizer");
  if (c.config.checkpoint.save_hf) write_hf(folder, c);
  write_file_atomically(folder / "metadata.json", metadata_json());  // last: its presence says "this is a checkpoint"
}

void publish(StagedDirectory& staged, const fs::path& root, int64_t iteration) {
  staged.publish();
  write_file_atomically(root / kLatestTrainState, read_file(staged.target() / "train_state.pt"));
  write_file_atomically(root / kLatestIteration, format("{}", iteration));
}

// The parts of all ranks, on each of them; a failure on one is a failure on all.
std::vector<SavedPart> write_shares(Group& world, const fs::path& folder, const CheckpointContent& c) {
  SavedPart mine;
  agree(world, [&] {
    require(fs::is_directory(folder),
            "checkpoint.save: {} was made by rank 0 and is not there for this rank; the folder must be on a file system all ranks share", folder);
    mine = write_share(folder, c);
    if (world.rank() > 0) fsync_tree(folder);  // rank 0 does so when it publishes, but sees only what has left this machine
  });
  const std::vector<std::string> metadata = gather_text(world, mine.metadata), manifests = gather_text(world, mine.manifest);
  std::vector<SavedPart> out;
  for (size_t r = 0; r < metadata.size(); ++r) out.push_back({metadata[r], manifests[r]});
  return out;
}

}  // namespace

fs::path save_checkpoint(const fs::path& root, const CheckpointContent& content) {
  const int64_t iteration = content.state.train.step;
  const fs::path target = root / iteration_folder_name(iteration);
  Group& world = content.world ? *content.world : *single_group();
  std::optional<StagedDirectory> staged;
  agree(world, [&] {
    if (world.rank() != 0) return;
    fs::create_directories(root);
    staged.emplace(target, StagedDirectory::Existing::replace);
  });
  const fs::path folder = gather_text(world, staged ? staged->path().string() : "")[0];
  const std::vector<SavedPart> parts = write_shares(world, folder, content);
  agree(world, [&] {
    if (world.rank() != 0) return;
    write_rest(folder, content, parts);
    publish(*staged, root, iteration);
  });
  return target;
}

}  // namespace ponte
