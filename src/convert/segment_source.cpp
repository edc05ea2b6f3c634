#include "convert/segment_source.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/errors.h"
#include "base/hash.h"

namespace ponte {
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
  fill(table_.rules[index], slice, out, out_dtype, buffers_, offset(index),
       [&](size_t segment, const Window& to, std::vector<Copy>& copies) { append_feeds(index, segment, to, copies); });
}

void SegmentSource::fill(const Rule& rule, const Slice& slice, std::span<std::byte> out, DType out_dtype, std::span<const SourceBuffer> buffers,
                         float add, const AppendFeeds& append) const {
  require(static_cast<int64_t>(out.size()) == checked_multiply(checked_numel(slice.shape, rule.leaf), dtype_bytes(out_dtype), rule.leaf),
          "{}: a buffer of {} bytes for shape {} of {}", rule.name(), out.size(), slice.shape, torch_name(out_dtype));
  std::vector<Copy> copies;
  bool padded = false;
  for (size_t s = 0; s < slice.segments.size(); ++s) {
    padded |= slice.segments[s].padding > 0;
    for (const Window& window : slice_windows(rule, slice, s))
      if (window.elements() > 0) append(s, window, copies);
  }
  if (padded) std::memset(out.data(), 0, out.size());
  for (const Copy& copy : copies) {
    const SourceBuffer& from = buffers[static_cast<size_t>(copy.source)];
    run_copy(copy, from, out.data(), out_dtype, add);
    bytes_read_ += static_cast<uint64_t>(copy.elements() * dtype_bytes(from.dtype));
  }
}

std::string SegmentSource::fingerprint() const {
  constexpr size_t kSamples = 64, kSampleBytes = 64;
  std::vector<const SourceBuffer*> sorted;  // the files may be cut elsewhere
  for (const SourceBuffer& buffer : buffers_) sorted.push_back(&buffer);
  std::ranges::sort(sorted, {}, [](const SourceBuffer* buffer) -> const std::string& { return buffer->name; });
  const size_t stride = std::max<size_t>(1, sorted.size() / kSamples);
  ContentHash hash;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const SourceBuffer& buffer = *sorted[i];
    const std::string what = format("{} {} {}\n", buffer.name, torch_name(buffer.dtype), buffer.bytes.size());
    hash.update(std::as_bytes(std::span(what)));
    if (i % stride == 0) hash.update(buffer.bytes.first(std::min(kSampleBytes, buffer.bytes.size())));
  }
  return hash.hex();
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
