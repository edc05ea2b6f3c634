// A Megatron checkpoint as the source of live parameters: which iteration, which dialect, where each tensor lies.
#include <algorithm>
#include <charconv>
#include <set>

#include "base/errors.h"
#include "base/hash.h"
#include "convert/accounting.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/packing.h"
#include "convert/segment_source.h"
#include "families/registry.h"

namespace ponte {
namespace {

constexpr const char* kTracker = "latest_checkpointed_iteration.txt";

bool is_iteration(const fs::path& path) { return fs::exists(path / ".metadata"); }

// Tensors of a training run that are no weights.
bool is_training_state(std::string_view key) {
  for (std::string_view prefix : {"optimizer.", "chained_", "rng_state", "rerun_state", "opt_param_scheduler", "common_state"})
    if (key.starts_with(prefix)) return true;
  return false;
}

// The part of one run of a segment that `chunk` holds, placed in the chunk's own buffer; empty when it holds none.
std::optional<Window> run_in_chunk(const Segment& segment, const TorchDistChunk& chunk, const Shape& prefix, const RowRun& run) {
  const size_t lead = prefix.size();
  const Window whole = dense_window(Shape(chunk.sizes.size(), 0), chunk.sizes);  // strides of the chunk's own buffer
  Window window;
  for (size_t d = 0; d < lead; ++d) window.origin += (prefix[d] - chunk.offsets[d]) * whole.strides[d];
  for (size_t d = 0; d < segment.shape.size(); ++d) {
    const int64_t from = d == 0 ? run.native : 0, to = d == 0 ? run.native + run.rows : segment.shape[d];
    const int64_t first = chunk.offsets[lead + d] - (d == 0 ? run.stored - run.native : 0);  // of the chunk, in segment coordinates
    const int64_t begin = std::max(from, first), end = std::min(to, first + chunk.sizes[lead + d]);
    if (begin >= end) return std::nullopt;
    window.begin.push_back(begin);
    window.end.push_back(end);
    window.strides.push_back(whole.strides[lead + d]);
    window.origin += (begin - first) * whole.strides[lead + d];
  }
  return window;
}

// The chunks of `tensor` that hold a part of `segment`; `open` maps a chunk and returns its buffer's number.
std::vector<SegmentChunk> bind_segment(const Segment& segment, const TorchDistTensor& tensor, const StoredSegment& stored,
                                       const std::function<int64_t(const TorchDistChunk&)>& open) {
  const RowRun all{0, segment.shape.empty() ? 1 : segment.shape[0], stored.row};
  const std::span<const RowRun> runs = stored.runs.empty() ? std::span(&all, 1) : std::span(stored.runs);
  std::vector<SegmentChunk> out;
  for (const TorchDistChunk& chunk : tensor.chunks) {
    bool elsewhere = false;
    for (size_t d = 0; d < stored.prefix.size(); ++d)
      elsewhere |= stored.prefix[d] < chunk.offsets[d] || stored.prefix[d] >= chunk.offsets[d] + chunk.sizes[d];
    if (elsewhere) continue;
    for (const RowRun& run : runs)
      if (std::optional<Window> window = run_in_chunk(segment, chunk, stored.prefix, run)) out.push_back({open(chunk), std::move(*window)});
  }
  return out;
}

// Multi-token prediction layers, by either container's names.
int64_t stored_prediction_depths(const TorchDistReader& reader) {
  int64_t depths = 0;
  for (; reader.find(format("mtp.layers.{}.eh_proj.weight", depths)) || reader.find(format("model.module.mtp.layers.{}.eh_proj.weight", depths)); ++depths) {}
  return depths;
}

// Do sparse layers have their norm under the name of a dense layer's, and none a module of its own?
bool has_local_norms(const RuleTable& table, const TorchDistReader& reader, Dialect dialect) {
  if (dialect.container != Container::torch_dist) return false;
  Dialect local = dialect;
  local.local_norms = true;
  bool found = false;
  for (const Rule& rule : table.rules) {
    if (!rule.leaf.ends_with("pre_mlp_layernorm.weight")) continue;
    if (reader.find(stored_segment(rule, 0, dialect).key)) return false;
    found = found || reader.find(stored_segment(rule, 0, local).key);
  }
  return found;
}

}  // namespace

fs::path iteration_directory(const fs::path& path) {
  if (is_iteration(path)) return path;
  const fs::path tracker = path / kTracker;
  require(fs::exists(tracker), "{}: not a Megatron checkpoint: neither {} nor .metadata is in it", path, kTracker);
  std::string text = read_file(tracker);
  while (!text.empty() && isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  fs::path directory = path / text;  // "release"
  if (text != "release") {
    int64_t iteration = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), iteration);
    require(error == std::errc() && end == text.data() + text.size() && iteration >= 0, "{}: '{}' is no iteration number", tracker, text);
    std::string digits = std::to_string(iteration);
    digits.insert(0, digits.size() < 7 ? 7 - digits.size() : 0, '0');
    directory = path / ("iter_" + digits);
  }
  require(is_iteration(directory), "{}: the tracker names {}, which has no .metadata", path, directory);
  return directory;
}

bool is_native_checkpoint(const fs::path& path) { return is_iteration(path) || fs::exists(path / kTracker); }

NativeSource::NativeSource(const fs::path& path, const ModelConfig* config, const HfTensors& hf)
    : directory_(ponte::iteration_directory(path)), reader_(directory_), checks_(reader_) {
  config_ = config ? *config : native_model_config(directory_, reader_);
  // The stored tensors decide whether the head is tied, not a flag.
  config_.share_embeddings_and_output_weights = !reader_.find("output_layer.weight") && !reader_.find("model.module.output_layer.weight");
  if (family_of(config_.hf_architecture).prediction_depths) config_.mtp_num_layers = stored_prediction_depths(reader_);
  config_.moe_router_enable_expert_bias =
      std::ranges::any_of(reader_.tensors(), [](const TorchDistTensor& tensor) { return tensor.name.ends_with(".mlp.router.expert_bias"); });
  table_ = rule_table(config_, hf.empty() ? kept_hf_storage(directory_) : hf);
  index_rules();
  choose_dialect();
  bind();
}

void NativeSource::choose_dialect() {
  const Rule* layered = &table_.rules.front();
  for (const Rule& rule : table_.rules)
    if (rule.layer >= 0) {
      layered = &rule;
      break;
    }
  const Packing packing = packing_of(reader_, config_, directory_);
  const Dialect candidates[] = {{Container::torch_dist, LayerKeys::stacked, packing}, {Container::torch_dist, LayerKeys::numbered, packing},
                                {Container::fsdp_dtensor, LayerKeys::numbered}};
  for (const Dialect& dialect : candidates)
    if (reader_.find(stored_segment(*layered, 0, dialect).key)) {
      dialect_ = dialect;
      dialect_.local_norms = has_local_norms(table_, reader_, dialect);
      return;
    }
  dialect_ = dialect_of(table_);
  dialect_.packing = packing;  // nothing fits: the accounting will say what is missing
}

SourceBuffer NativeSource::open_chunk(const TorchDistTensor& tensor, const TorchDistChunk& chunk, std::vector<ChunkBytes>& opened) const {
  opened.push_back(reader_.bytes(tensor, chunk));
  return {format("{} at {}", tensor.name, chunk.offsets), tensor.dtype, opened.back().bytes, checks_.of(chunk)};
}

void NativeSource::bind() {
  Accounting accounting(directory_.string());
  std::set<std::string> used;
  std::map<const TorchDistChunk*, int64_t> numbers;
  const auto open = [&](const TorchDistTensor& tensor, const TorchDistChunk& chunk) {
    const auto [it, fresh] = numbers.emplace(&chunk, static_cast<int64_t>(buffers_.size()));
    if (fresh) buffers_.push_back(open_chunk(tensor, chunk, opened_));
    return it->second;
  };
  for (const Rule& rule : table_.rules) {
    std::vector<std::vector<SegmentChunk>> segments;
    DType dtype = DType::f32;
    for (size_t s = 0; s < rule.segments.size(); ++s) {
      const StoredSegment stored = stored_segment(rule, s, dialect_);
      const TorchDistTensor* tensor = reader_.find(stored.key);
      if (!tensor) {
        if (used.insert(stored.key).second) accounting.missing(stored.key);
        continue;
      }
      used.insert(tensor->name);
      Shape wanted = stored.shape, found = tensor->shape;
      if (rule.segments[s].padded && found.size() == wanted.size() && found[0] > wanted[0]) found[0] = wanted[0];  // vocabulary padding is trimmed
      if (found != wanted) accounting.mismatch(stored.key, tensor->shape, stored.shape);
      else segments.push_back(bind_segment(rule.segments[s], *tensor, stored, [&](const TorchDistChunk& chunk) { return open(*tensor, chunk); }));
      dtype = tensor->dtype;
    }
    rule_dtypes_.push_back(dtype);
    chunks_.push_back(std::move(segments));
  }
  for (const TorchDistTensor& tensor : reader_.tensors())
    if (!used.contains(tensor.name) && !is_training_state(tensor.name)) accounting.unexpected(tensor.name);
  accounting.settle();
}

// Other packings keep a delta net's output norm as HF does.
float NativeSource::offset(size_t rule) const { return dialect_.packing == Packing::megatron ? 0 : native_offset(table_.rules[rule]); }

void NativeSource::append_feeds(size_t rule, size_t segment, const Window& to, std::vector<Copy>& out) const {
  for (const SegmentChunk& chunk : chunks_[rule][segment]) append_copies(chunk.window, to, chunk.buffer, out);
}

std::string NativeSource::fingerprint() const {
  if (!checks_.present()) return SegmentSource::fingerprint();
  const std::string manifest = read_file(checks_.manifest());
  return content_hash(std::as_bytes(std::span(manifest)));
}

void NativeSource::check_part(Part part, Contents contents) {
  if (part.count == 1) return;
  divided_ = checks_.of_tensors([&](const TorchDistTensor& tensor) { return contents == Contents::weights_and_state || !is_training_state(tensor.name); });
  checks_.compare(divided_, part, 0, part.number == 0 ? "check hashes" : "");
}

void NativeSource::take_as_checked() {
  for (ContentCheck* check : divided_) check->take_as_done();
}

std::string NativeSource::key_of_state(std::string_view prefix, const Rule& rule, size_t segment) const {
  return prefixed_key(prefix, stored_segment(rule, segment, dialect_).key, dialect_.container);
}

std::vector<SegmentChunk> NativeSource::bind_state(std::string_view prefix, const Rule& rule, size_t segment, const OpenChunk& open) const {
  if (const FlatState* flat = state_kind(prefix).empty() || !rule.is_optimized() ? nullptr : this->flat())
    return flat->chunks(state_kind(prefix), rule, segment, open);
  StoredSegment stored = stored_segment(rule, segment, dialect_);
  if (rule.is_optimized()) stored.key = key_of_state(prefix, rule, segment);  // else what stands for a main parameter is the weight
  const TorchDistTensor& tensor = reader_.at(stored.key);
  Shape found = tensor.shape;
  if (rule.segments[segment].padded && found.size() == stored.shape.size() && found[0] > stored.shape[0]) found[0] = stored.shape[0];
  require(found == stored.shape, "{}: {}: shape {}, wanted {}", directory_, stored.key, tensor.shape, stored.shape);
  return bind_segment(rule.segments[segment], tensor, stored, [&](const TorchDistChunk& chunk) { return open(tensor, chunk); });
}

// A few elements of the first and the last piece of each segment tell: what lies elsewhere does not round to this weight.
bool NativeSource::main_param_rounds_to_weight(const FlatState& flat, const Rule& rule) const {
  constexpr int64_t kSample = 8;
  const size_t index = index_of(rule);
  const DType dtype = rule_dtypes_[index];
  std::vector<ChunkBytes> opened;
  std::vector<SourceBuffer> buffers;
  const OpenChunk open = [&](const TorchDistTensor& tensor, const TorchDistChunk& chunk) {
    buffers.push_back(open_chunk(tensor, chunk, opened));
    return static_cast<int64_t>(buffers.size()) - 1;
  };
  const auto agrees = [&](size_t segment, const SegmentChunk& piece) {
    Shape end = piece.window.begin;
    for (int64_t& coordinate : end) ++coordinate;
    end.back() = std::min(piece.window.end.back(), piece.window.begin.back() + kSample);
    const Window sample = dense_window(piece.window.begin, end);
    std::vector<std::byte> main(static_cast<size_t>(sample.elements() * dtype_bytes(dtype))), weight(main.size());
    std::vector<Copy> from_main, from_weight;
    append_copies(piece.window, sample, piece.buffer, from_main);
    append_feeds(index, segment, sample, from_weight);
    for (const Copy& copy : from_main) run_copy(copy, buffers[static_cast<size_t>(copy.source)], main.data(), dtype);
    for (const Copy& copy : from_weight) run_copy(copy, buffers_[static_cast<size_t>(copy.source)], weight.data(), dtype);
    return main == weight;
  };
  for (size_t s = 0; s < rule.segments.size(); ++s) {
    const std::vector<SegmentChunk> pieces = flat.chunks("param", rule, s, open);
    if (pieces.empty() || !agrees(s, pieces.front()) || !agrees(s, pieces.back())) return false;
  }
  return true;
}

const FlatState* NativeSource::flat() const {
  if (!FlatState::present(reader_)) return nullptr;
  const std::lock_guard lock(flat_mutex_);
  if (flat_) return &*flat_;
  const auto dtype = [this](const Rule& rule) { return this->dtype(rule); };
  const auto padded_rows = [this](const Rule& rule) { return reader_.at(stored_segment(rule, 0, dialect_).key).shape[0]; };
  flat_.emplace(reader_, FlatModel{table_, dtype, padded_rows},
                [this](const FlatState& flat, const Rule& rule) { return main_param_rounds_to_weight(flat, rule); });
  return &*flat_;
}

bool NativeSource::has_state(std::string_view prefix, const Rule& rule) const {
  if (dialect_.packing != Packing::megatron) return false;
  return reader_.find(key_of_state(prefix, rule, 0)) != nullptr || (!state_kind(prefix).empty() && FlatState::present(reader_));
}

void NativeSource::read_state(std::string_view prefix, const Rule& wanted, const Slice& slice, std::span<std::byte> out, DType out_dtype) const {
  require(dialect_.packing == Packing::megatron,
          "{}: mcore-bridge's (ms-swift's) order of gated delta nets and gated attention is read for weights, not for an optimizer's state", directory_);
  const Rule& rule = table_.rules[index_of(wanted)];
  std::vector<ChunkBytes> opened;
  std::vector<SourceBuffer> buffers;
  std::vector<std::vector<SegmentChunk>> chunks;
  for (size_t s = 0; s < rule.segments.size(); ++s)
    chunks.push_back(bind_state(prefix, rule, s, [&](const TorchDistTensor& tensor, const TorchDistChunk& chunk) {
      buffers.push_back(open_chunk(tensor, chunk, opened));
      return static_cast<int64_t>(buffers.size()) - 1;
    }));
  fill(rule, slice, out, out_dtype, buffers, 0, [&](size_t segment, const Window& to, std::vector<Copy>& copies) {
    for (const SegmentChunk& chunk : chunks[segment]) append_copies(chunk.window, to, chunk.buffer, copies);
  });
}

}  // namespace ponte
