// Norm weights whose shift by one loses bits even in fp32 (values far below 2^-17, -0, most fp32 values): the HF tensors themselves, kept beside a
// checkpoint in <iteration>/ponte/exact_values.safetensors. They stand for as long as the stored values are still theirs.
#pragma once
#include <memory>
#include <vector>

#include "convert/segment_source.h"
#include "format/safetensors.h"

namespace ponte {

// Writes the file when `source` has such tensors, as stored in `asked`'s type.
void keep_exact_values(const SegmentSource& source, std::optional<DType> asked, const fs::path& iteration_directory);

// The kept tensors of an iteration whose Megatron values are what shifting them gives; none when nothing was kept.
class ExactValues {
 public:
  explicit ExactValues(const NativeSource& source);
  // Adds their bytes, borrowed from this object; their places in `buffers` by rule.
  std::map<size_t, int64_t> append_to(std::vector<SourceBuffer>& buffers) const;

 private:
  std::unique_ptr<SafetensorsFile> file_;
  std::map<size_t, SourceBuffer> values_;  // by rule
};

}  // namespace ponte
