#include "convert/segment_source.h"

#include <cstring>

#include "base/checked.h"
#include "base/errors.h"

namespace ponte {
namespace {

Shape row_major_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0; stride *= shape[d]) strides[d] = stride;
  return strides;
}

}  // namespace

void SegmentSource::index_rules() {
  for (size_t i = 0; i < table_.rules.size(); ++i) by_name_.emplace(table_.rules[i].name(), i);
}

size_t SegmentSource::index_of(const Rule& rule) const {
  const auto it = by_name_.find(rule.name());
  require(it != by_name_.end(), "the checkpoint has no parameter '{}'", rule.name());
  return it->second;
}

DType SegmentSource::dtype(const Rule& rule) const { return rule_dtypes_[index_of(rule)]; }

void SegmentSource::read(const Rule& rule, const Slice& slice, std::span<std::byte> out, DType out_dtype) const {
  const size_t index = index_of(rule);
  require(static_cast<int64_t>(out.size()) == checked_multiply(checked_numel(slice.shape, rule.leaf), dtype_bytes(out_dtype), rule.leaf),
          "{}: a buffer of {} bytes for shape {} of {}", rule.name(), out.size(), slice.shape, torch_name(out_dtype));
  const Shape strides = row_major_strides(slice.shape);
  std::vector<Copy> copies;
  bool padded = false;
  for (size_t s = 0; s < slice.segments.size(); ++s) {
    const Segment& segment = table_.rules[index].segments[s];
    const SegmentSlice& cut = slice.segments[s];
    const size_t dim = segment.shard_dim == kReplicated ? 0 : static_cast<size_t>(segment.shard_dim);
    int64_t at = 0;
    for (const Interval& interval : cut.intervals) {
      Window window{Shape(segment.shape.size(), 0), segment.shape, strides, cut.offset * strides[0] + at * strides[dim]};
      window.begin[dim] = interval.begin;
      window.end[dim] = interval.end;
      at += interval.end - interval.begin;
      if (window.elements() > 0) append_feeds(index, s, window, copies);
    }
    padded |= cut.padding > 0;
  }
  if (padded) std::memset(out.data(), 0, out.size());
  for (const Copy& copy : copies) run_copy(copy, buffers_[static_cast<size_t>(copy.source)], out.data(), out_dtype);
}

std::unique_ptr<WeightSource> WeightSource::open(const std::filesystem::path& path) {
  require(fs::exists(path), "{}: no such file or folder", path);
  if (is_hf_checkpoint(path)) return std::make_unique<HfSource>(path);
  return std::make_unique<NativeSource>(path, nullptr);
}

std::unique_ptr<WeightSource> WeightSource::open(const std::filesystem::path& path, const ModelConfig& config) {
  require(fs::exists(path), "{}: no such file or folder", path);
  if (!is_hf_checkpoint(path)) return std::make_unique<NativeSource>(path, &config);
  auto source = std::make_unique<HfSource>(path);
  require(source->config().hf_architecture == config.hf_architecture, "{}: a {}, but the model being built is a {}", path, source->config().hf_architecture,
          config.hf_architecture);
  return source;
}

}  // namespace ponte
