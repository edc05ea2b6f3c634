#include "convert/flat_state.h"

#include <algorithm>
#include <charconv>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr std::string_view kKinds[] = {"param", "exp_avg", "exp_avg_sq"};

// A number that follows `label` in `name`; nullopt where there is none.
std::optional<int64_t> number_after(std::string_view name, std::string_view label) {
  const size_t at = name.find(label);
  if (at == std::string_view::npos) return std::nullopt;
  int64_t value = -1;
  const char* first = name.data() + at + label.size();
  const auto [end, error] = std::from_chars(first, name.data() + name.size(), value);
  return error == std::errc() && value >= 0 ? std::optional(value) : std::nullopt;
}

bool is_flat(const TorchDistTensor& tensor) { return tensor.name.find("optimizer.distributed.dp_group_idx_") != std::string::npos; }

// What a key says: "chained_1.optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(torch.bfloat16, torch.float32).bucket_idx_0.param".
struct BucketKey {
  int64_t optimizer, rank, buffer, bucket;
  std::string dtype;   // of the parameters
  std::string prefix;  // the key up to the kind
};
BucketKey parse_key(const TorchDistTensor& tensor, const std::string& what) {
  const std::string& name = tensor.name;
  const auto rank = number_after(name, ".dp_group_idx_"), buffer = number_after(name, ".gbuf_idx_"), bucket = number_after(name, ".bucket_idx_");
  const size_t dtype = name.find(".dtype_("), comma = name.find(',', std::min(dtype, name.size()));
  require(rank && buffer && bucket && comma != std::string::npos && tensor.shape.size() == 1 && tensor.dtype == DType::f32,
          "{}: '{}' is {} of shape {}; a flat fp32 bucket was expected", what, name, torch_name(tensor.dtype), tensor.shape);
  const size_t first = dtype + std::string_view(".dtype_(").size();
  return {number_after(name, "chained_").value_or(0), *rank, *buffer, *bucket, name.substr(first, comma - first), name.substr(0, name.rfind('.') + 1)};
}

// Megatron's types of parameters by the type their weights are stored in.
DType parameter_dtype(const BucketKey& key, const std::string& what) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32})
    if (key.dtype == torch_name(dtype)) return dtype;
  fail("{}: '{}param': optimizer state of parameters of {}, which this version does not read", what, key.prefix, key.dtype);
}

// The values of a map whose keys are 0, 1, ...
template <typename T>
std::vector<T> counted(std::map<int64_t, T>&& numbered, const std::string& what, std::string_view thing) {
  std::vector<T> out;
  for (auto& [number, value] : numbered) {
    require(number == std::ssize(out), "{}: {} {} of the flat optimizer state is missing", what, thing, out.size());
    out.push_back(std::move(value));
  }
  return out;
}

// Rectangles of a row-major tensor that together are its elements [begin, end).
void append_boxes(const Shape& shape, int64_t begin, int64_t end, Shape& first, Shape& last, std::vector<std::pair<Shape, Shape>>& out) {
  const size_t dim = first.size();
  int64_t inner = 1;
  for (size_t d = dim + 1; d < shape.size(); ++d) inner *= shape[d];
  const auto add = [&](int64_t from, int64_t to) {  // whole rows of this dim
    if (from >= to) return;
    out.emplace_back(first, last);
    out.back().first.push_back(from);
    out.back().second.push_back(to);
    for (size_t d = dim + 1; d < shape.size(); ++d) {
      out.back().first.push_back(0);
      out.back().second.push_back(shape[d]);
    }
  };
  const auto cut = [&](int64_t row, int64_t from, int64_t to) {  // elements of one row
    first.push_back(row);
    last.push_back(row + 1);
    append_boxes(shape, from - row * inner, to - row * inner, first, last, out);
    first.pop_back();
    last.pop_back();
  };
  int64_t row = begin / inner;
  const int64_t end_row = end / inner;
  if (begin % inner != 0) {
    cut(row, begin, std::min(end, (row + 1) * inner));
    ++row;
  }
  add(row, end_row);
  if (end_row >= row && end % inner != 0) cut(end_row, end_row * inner, end);
}

// The part of `window`, which lies in a local tensor of this shape, inside a box of that tensor; placed as the window.
std::optional<Window> part_of(const Window& window, const Shape& shape, const std::pair<Shape, Shape>& box) {
  Window wanted{window.begin, window.end, {}, 0}, out;
  for (size_t d = 0; d < shape.size(); ++d) {
    const int64_t start = window.origin / window.strides[d] % shape[d];  // of the window in the local tensor
    wanted.begin[d] = window.begin[d] + box.first[d] - start;
    wanted.end[d] = window.begin[d] + box.second[d] - start;
  }
  return intersect(window, wanted, out) ? std::optional(out) : std::nullopt;
}

}  // namespace

bool FlatState::present(const TorchDistReader& reader) { return std::any_of(reader.tensors().begin(), reader.tensors().end(), is_flat); }

FlatState::FlatState(const TorchDistReader& reader, FlatModel model, const Agrees& agrees) : reader_(reader), model_(std::move(model)) {
  const std::string what = reader.directory().string();
  const FlatOptimizers found = optimizers();
  std::string misfits, disagrees;  // of the most usual order
  for (const FlatOrder order : flat_orders(model_.table)) {
    std::string own;
    for (const FlatDivision& division : flat_divisions(found)) {
      std::string why;
      std::optional<FlatLayout> layout = flat_layout(found, model_, order, division, why);
      if (!layout) {
        own += format("; as {} tensor- by {} pipeline-parallel ranks, {}", division.tensor, division.pipeline, why);
        continue;
      }
      layout_ = std::move(*layout);
      const auto wrong = std::find_if(model_.table.rules.begin(), model_.table.rules.end(),
                                      [&](const Rule& rule) { return rule.is_optimized() && !agrees(*this, rule); });
      if (wrong == model_.table.rules.end()) return;
      if (disagrees.empty()) disagrees = wrong->name();
    }
    if (misfits.empty()) misfits = std::move(own);
  }
  require(disagrees.empty(),
          "{}: the parameters of this model fill the flat buckets of its optimizer state, but what lies there for {} does not round to its weight: they lie in "
          "another order than Megatron's layers register them",
          what, disagrees);
  if (misfits.empty()) misfits = ": no division of the ones is a division of the others";
  fail("{}: the parameters of this model do not fill the flat buckets of its optimizer state, over {} model-parallel ranks{}{}", what, found.dense.size(),
       found.experts.empty() ? "" : format(" and {} of experts", found.experts.size()), misfits);
}

FlatOptimizers FlatState::optimizers() const {
  using Buckets = std::map<int64_t, FlatBucket>;
  struct Buffer {
    DType dtype = DType::bf16;
    Buckets buckets;
  };
  const std::string what = reader_.directory().string();
  std::map<int64_t, std::map<int64_t, std::map<int64_t, Buffer>>> numbered;  // optimizer, rank, buffer
  for (const TorchDistTensor& tensor : reader_.tensors()) {
    if (!is_flat(tensor)) continue;
    const BucketKey key = parse_key(tensor, what);
    Buffer& buffer = numbered[key.optimizer][key.rank][key.buffer];
    buffer.dtype = parameter_dtype(key, what);
    const auto [bucket, fresh] = buffer.buckets.emplace(key.bucket, FlatBucket{key.prefix, tensor.shape[0]});
    require(bucket->second.key == key.prefix, "{}: '{}' and '{}' are one bucket", what, bucket->second.key, key.prefix);
    if (!fresh) continue;
    for (const std::string_view kind : kKinds) {
      const TorchDistTensor* other = reader_.find(key.prefix + std::string(kind));
      require(other && other->dtype == DType::f32 && other->shape == tensor.shape, "{}: '{}{}' {}", what, key.prefix, kind,
              other ? format("is {} of shape {}, wanted fp32 of {}", torch_name(other->dtype), other->shape, tensor.shape) : "is missing");
    }
  }
  for (const std::string& name : reader_.objects())  // of every rank, those too that have no parameters of a kind (a stage without experts)
    if (const auto rank = number_after(name, "optimizer.distributed.dp_group_idx_")) numbered[number_after(name, "chained_").value_or(0)][*rank];
  std::vector<std::vector<FlatRank>> out;
  for (auto& ranks : counted(std::move(numbered), what, "optimizer")) {
    out.emplace_back();
    for (auto& buffers : counted(std::move(ranks), what, "model-parallel rank")) {
      out.back().emplace_back();
      for (Buffer& buffer : counted(std::move(buffers), what, "buffer"))
        out.back().back().push_back({buffer.dtype, counted(std::move(buffer.buckets), what, "bucket")});
    }
  }
  require(!out.empty() && out.size() <= 2, "{}: {} optimizers in a chain; this version reads one, or one of dense parameters and one of experts", what,
          out.size());
  for (size_t rank = 0; rank < out[0].size(); ++rank)
    require(!out[0][rank].empty(), "{}: model-parallel rank {} of the flat optimizer state is missing", what, rank);
  return {out[0], out.size() > 1 ? out[1] : std::vector<FlatRank>{}};
}

std::vector<SegmentChunk> FlatState::chunks(std::string_view kind, const Rule& rule, size_t segment, const OpenChunk& open) const {
  const auto found = layout_.find(rule.name());
  require(found != layout_.end(), "{}: no optimizer state for {}", reader_.directory(), rule.name());
  std::vector<SegmentChunk> out;
  for (const FlatPlace& place : found->second) {
    if (place.rank > 0 && rule.segments[segment].shard_dim == kReplicated) continue;
    const Slice slice = *flat_slice(model_, rule, place.rank, place.size);
    const TorchDistTensor& tensor = reader_.at(place.bucket + std::string(kind));
    const auto starts_after = [](int64_t element, const TorchDistChunk& chunk) { return element < chunk.offsets[0]; };
    auto chunk = std::upper_bound(tensor.chunks.begin(), tensor.chunks.end(), place.begin, starts_after);
    if (chunk != tensor.chunks.begin()) --chunk;
    for (; chunk != tensor.chunks.end() && chunk->offsets[0] < place.begin + place.elements; ++chunk) {
      const int64_t start = chunk->offsets[0] - place.begin;  // of the chunk in the parameter
      const int64_t begin = std::max<int64_t>(start, 0), end = std::min(start + chunk->sizes[0], place.elements);
      if (begin >= end) continue;
      std::vector<std::pair<Shape, Shape>> boxes;
      Shape first, last;
      append_boxes(slice.shape, begin, end, first, last, boxes);
      std::optional<int64_t> buffer;
      for (const Window& window : slice_windows(rule, slice, segment))
        for (const auto& box : boxes)
          if (std::optional<Window> part = window.elements() > 0 ? part_of(window, slice.shape, box) : std::nullopt) {
            if (!buffer) buffer = open(tensor, *chunk);
            part->origin -= start;
            out.push_back({*buffer, std::move(*part)});
          }
    }
  }
  return out;
}

}  // namespace ponte
