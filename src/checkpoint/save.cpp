#include "checkpoint/save.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/layout.h"
#include "checkpoint/run_record.h"
#include "checkpoint/tensor_dtype.h"
#include "comm/ranks.h"
#include "convert/convert.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/training_state.h"
#include "convert/weight_sink.h"
#include "families/registry.h"
#include "format/torch_dist.h"

namespace ponte {
namespace {

constexpr int64_t kMaxShardBytes = 5'000'000'000;  // of HF safetensors files

// Of a tensor on a device: through memory the device copies to at full speed.
LiveBytes host_bytes(const at::Tensor& part) {
  const auto bytes_of = [](const at::Tensor& t) { return std::span(static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()); };
  if (part.device().is_cpu()) return {bytes_of(part)};
  const auto host = std::make_shared<at::Tensor>(at::empty(part.sizes(), at::TensorOptions(part.scalar_type()).pinned_memory(part.is_cuda())));
  host->copy_(part);
  return {bytes_of(*host), host};
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

// What a rank writes, fixed: nothing here changes while training goes on.
struct Share {
  std::vector<LiveShard> shards;
  std::vector<at::Tensor> tensors;  // the shards' values, in their order
  NativeExtras extras;

  // The tensor holds rows `held` of the parameter; `saved`, inside them, are written.
  void append(std::string prefix, const Parameter& parameter, const at::Tensor& tensor, Rows held, Rows saved) {
    PONTE_ASSERT(tensor.is_contiguous() && held.begin <= saved.begin && saved.end <= held.end);
    const at::Tensor part = tensor.narrow(0, saved.begin - held.begin, saved.count());
    const bool whole = saved.count() == parameter.slice.shape[0];
    tensors.push_back(part);
    shards.push_back({.prefix = std::move(prefix), .rule = parameter.rule, .slice = whole ? parameter.slice : rows_of(parameter.slice, saved),
                      .dtype = dtype_of(tensor.scalar_type()), .bytes = [part] { return host_bytes(part); }, .copied = !part.device().is_cpu()});
  }
};

void append_weights(RankModel& model, const RowsOf& rows, const std::set<const Parameter*>& except, Share& out) {
  for (const Parameter* parameter : model.parameters())
    if (is_saved(*parameter, rows) && !except.contains(parameter))
      out.append("", *parameter, parameter->kept_value.tensor, parameter->kept_value.rows, rows.at(parameter));
}

void append_optimizer(AdamW& optimizer, const RowsOf& rows, Share& out) {
  for (const AdamW::Slot& slot : optimizer.slots()) {
    if (!is_saved(*slot.parameter, rows)) continue;
    const Rows saved = rows.at(slot.parameter);
    out.append("optimizer.state.param.", *slot.parameter, slot.main_param.detach(), slot.rows, saved);
    out.append("optimizer.state.exp_avg.", *slot.parameter, slot.exp_avg, slot.rows, saved);
    out.append("optimizer.state.exp_avg_sq.", *slot.parameter, slot.exp_avg_sq, slot.rows, saved);
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

Container container_of(const CheckpointContent& c) {
  return c.config.checkpoint.ckpt_format == "fsdp_dtensor" ? Container::fsdp_dtensor : Container::torch_dist;
}

Value common_state_of_run(const CheckpointContent& c) { return common_state_value(c.config, c.state, c.optimizer ? c.schedule : nullptr); }

Share share_of(const CheckpointContent& c) {
  const RowsOf rows = saved_rows(c);
  const bool is_fsdp = container_of(c) == Container::fsdp_dtensor;
  Share out;
  std::set<const Parameter*> as_main_params;  // fsdp_dtensor has one tensor for both
  if (c.optimizer && is_fsdp)
    for (const AdamW::Slot& slot : c.optimizer->slots()) as_main_params.insert(slot.parameter);
  append_weights(c.model, rows, as_main_params, out);
  if (c.optimizer) append_optimizer(*c.optimizer, rows, out);
  if (c.world && c.world->rank() != 0) return out;
  std::vector<RandomState> random;
  if (c.config.checkpoint.save_rng) random.push_back({0, 0, {rng_state_value(c.config.rng.seed, torch_generator_state())}});
  out.extras = is_fsdp ? fsdp_extras(c.model.rules(), common_state_of_run(c), random, {c.config.optimizer.apply_wd_to_qk_layernorm})
                       : torch_dist_extras(random);
  return out;
}

// Hugging Face's files: from memory where this rank's host memory holds the whole model as it is written, else from what the ranks have just written.
void write_hf(const fs::path& folder, const CheckpointContent& c, const Share& share) {
  const bool is_fsdp = container_of(c) == Container::fsdp_dtensor;
  const bool on_device = std::ranges::any_of(share.shards, &LiveShard::copied);
  if (is_fsdp || on_device || (c.world && c.world->size() > 1)) {
    const std::optional<DType> type = is_fsdp ? std::optional(c.config.model.params_dtype) : std::nullopt;
    export_checkpoint({.megatron_path = folder, .hf_path = folder / "hf", .torch_dtype = type, .max_shard_bytes = kMaxShardBytes});
    return;
  }
  fs::create_directories(folder / "hf");
  std::vector<LiveShard> weights;
  for (const LiveShard& shard : share.shards)
    if (shard.prefix.empty()) weights.push_back(shard);
  save_hf(folder / "hf", c.config.model, c.model.rules(), weights, kMaxShardBytes);
  if (!c.tokenizer_folder.empty()) restore_hf_files(c.tokenizer_folder, folder / "hf");
}

// What one rank writes.
void write_rest(const fs::path& folder, const CheckpointContent& c, const Share& share, const std::vector<SavedPart>& parts) {
  Manifest manifest = join_native_parts(folder, parts);
  const bool torch_dist = container_of(c) == Container::torch_dist;
  if (torch_dist) save_torch_file(folder / "common.pt", common_state_of_run(c));
  save_torch_file(folder / "train_state.pt", train_state_value(c.state.train));
  write_file_atomically(folder / "run_config.yaml", bridge_run_config_yaml(c.config));
  write_kept_files(folder, c);
  if (!c.tokenizer_folder.empty() && c.config.checkpoint.save_tokenizer_assets) copy_tokenizer(c.tokenizer_folder, folder / "tokenizer");
  write_native_manifest(folder, std::move(manifest));
  if (c.config.checkpoint.save_hf) write_hf(folder, c, share);
  if (torch_dist) write_file_atomically(folder / "metadata.json", metadata_json());  // last: its presence says "this is a checkpoint"
}

void publish(StagedDirectory& staged, const fs::path& root, int64_t iteration) {
  staged.publish();
  write_file_atomically(root / kLatestTrainState, read_file(staged.target() / "train_state.pt"));
  write_file_atomically(root / kLatestIteration, format("{}", iteration));
}

// The parts of all ranks, on each of them.
std::vector<SavedPart> gather_parts(Group& world, const SavedPart& mine) {
  const std::vector<std::string> metadata = gather_text(world, mine.metadata), manifests = gather_text(world, mine.manifest);
  std::vector<SavedPart> out;
  for (size_t r = 0; r < metadata.size(); ++r) out.push_back({metadata[r], manifests[r]});
  return out;
}

// Whether every rank's work has come to its end.
template <class Result>
bool is_ready(Group& world, const std::future<Result>& work) {
  const bool mine = !work.valid() || work.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  at::Tensor busy = at::full({1}, mine ? 0 : 1, at::kByte);
  world.all_reduce(busy, ReduceOp::max);
  return busy.item<int64_t>() == 0;
}

}  // namespace

// Grows to the largest share once and stays: saves of one run are alike.
struct CheckpointWriter::StagingBuffer {
  at::Tensor bytes;

  // The shards over copies of their bytes in host memory, pinned for a device. Tensors that are one in memory (an fp32 weight is its own main parameter)
  // are copied once.
  void take(Share& share) {
    std::map<std::pair<const void*, size_t>, std::pair<size_t, const at::Tensor*>> places;
    size_t total = 0;
    const auto key = [](const at::Tensor& t) { return std::pair<const void*, size_t>(t.const_data_ptr(), t.nbytes()); };
    for (const at::Tensor& tensor : share.tensors)
      if (places.try_emplace(key(tensor), total, &tensor).second) total += (tensor.nbytes() + 63) / 64 * 64;
    if (total > size()) {
      bytes.reset();
      const bool pinned = !share.tensors.empty() && share.tensors[0].is_cuda();
      bytes = at::empty({static_cast<int64_t>(total)}, at::TensorOptions(at::kByte).pinned_memory(pinned));
    }
    for (const auto& [from, to] : places) at::from_blob(begin() + to.first, to.second->sizes(), to.second->scalar_type()).copy_(*to.second);
    for (size_t i = 0; i < share.shards.size(); ++i) {
      const auto from = key(share.tensors[i]);
      share.shards[i].bytes = [copy = std::span<const std::byte>(begin() + places.at(from).first, from.second)] { return copy; };
      share.shards[i].copied = false;
    }
  }

  size_t size() const { return bytes.defined() ? bytes.nbytes() : 0; }
  std::byte* begin() { return static_cast<std::byte*>(bytes.data_ptr()); }
};

struct CheckpointWriter::Save {
  fs::path root, folder;
  RunState state;  // as it was
  Schedule schedule;
  CheckpointContent content;
  Share share;
  std::optional<StagedDirectory> staged;  // of rank 0
  bool joining = false;                   // every rank has written its part
  std::shared_ptr<Group> single = single_group();
  Group& world;
  // Last: their threads end before what they use does.
  std::future<SavedPart> part;
  std::future<void> rest;  // of rank 0, when all parts are there

  Save(const fs::path& root, const CheckpointContent& c)
      : root(root), state(c.state), schedule(c.schedule ? *c.schedule : Schedule()),
        content{c.config, c.model, c.optimizer, c.schedule ? &schedule : nullptr, state, c.tokenizer_folder, c.world, c.rows},
        world(c.world ? *c.world : *single) {}
};

CheckpointWriter::CheckpointWriter() : staging_(std::make_unique<StagingBuffer>()) {}
CheckpointWriter::~CheckpointWriter() = default;
uint64_t CheckpointWriter::staged_bytes() const { return staging_->size(); }

void CheckpointWriter::begin(const fs::path& root, const CheckpointContent& content, Staging staging) {
  PONTE_ASSERT(!save_);
  auto save = std::make_unique<Save>(root, content);
  Group& world = save->world;
  agree(world, [&] {
    if (world.rank() != 0) return;
    fs::create_directories(root);
    save->staged.emplace(root / iteration_folder_name(content.state.train.step), StagedDirectory::Existing::replace);
  });
  save->folder = gather_text(world, save->staged ? save->staged->path().string() : "")[0];
  agree(world, [&] {
    save->share = share_of(content);
    if (staging == Staging::copied) staging_->take(save->share);
  });
  // Beside training: one thread, and no progress bar.
  const TransferOptions transfer = staging == Staging::copied ? TransferOptions{1, ""} : TransferOptions{0, "checkpoint"};
  save->part = std::async(std::launch::async, [&s = *save, rank = world.rank(), transfer] {
    require(fs::is_directory(s.folder),
            "checkpoint.save: {} was made by rank 0 and is not there for this rank; the folder must be on a file system all ranks share", s.folder);
    const CheckpointContent& c = s.content;
    SavedPart part = save_native_part(s.folder, rank, c.config.model, c.model.rules(), s.share.shards, s.share.extras, container_of(c), transfer);
    fsync_tree(s.folder);  // publishing does so too, but sees only what has left this machine, and holds up training
    return part;
  });
  save_ = std::move(save);
}

// Rank 0 gets everybody's part, and writes what one rank writes.
void CheckpointWriter::join_parts() {
  Save& s = *save_;
  SavedPart mine;
  agree(s.world, [&] { mine = s.part.get(); });
  std::vector<SavedPart> parts = gather_parts(s.world, mine);
  s.joining = true;
  if (!s.staged) return;
  s.rest = std::async(std::launch::async, [&s, parts = std::move(parts)] {
    write_rest(s.folder, s.content, s.share, parts);
    fsync_tree(s.folder);
  });
}

std::optional<PublishedCheckpoint> CheckpointWriter::finish(Wait wait) {
  if (!save_) return std::nullopt;
  Group& world = save_->world;
  if (!save_->joining) {
    if (wait == Wait::no && !is_ready(world, save_->part)) return std::nullopt;
    join_parts();
  }
  if (wait == Wait::no && !is_ready(world, save_->rest)) return std::nullopt;
  const std::unique_ptr<Save> save = std::move(save_);
  const int64_t iteration = save->state.train.step;
  agree(world, [&] {
    if (!save->staged) return;
    save->rest.get();
    publish(*save->staged, save->root, iteration);
  });
  return PublishedCheckpoint{save->root / iteration_folder_name(iteration), iteration, save->state.best.iteration};
}

fs::path save_checkpoint(const fs::path& root, const CheckpointContent& content) {
  CheckpointWriter writer;
  writer.begin(root, content, Staging::none);
  return writer.finish(Wait::yes)->folder;
}

}  // namespace ponte
