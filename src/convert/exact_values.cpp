#include "convert/exact_values.h"

#include <algorithm>

#include "base/checked.h"
#include "base/errors.h"
#include "convert/native_config.h"
#include "convert/native_writer.h"

namespace ponte {
namespace {

constexpr const char* kFile = "exact_values.safetensors";

Target shifted(const SegmentSource& source, size_t rule, DType dtype, float add) {
  const Shape& shape = source.rules().rules[rule].segments[0].shape;
  Target target{source.rules().rules[rule].name(), dtype, checked_numel(shape, "a norm"), {}, add};
  source.append_feeds(rule, 0, dense_window(Shape(shape.size(), 0), shape), target.copies);
  return target;
}

std::vector<std::byte> values_of(std::span<const SourceBuffer> buffers, const Target& target) {
  std::vector<std::byte> scratch;
  const auto bytes = gather(buffers, target, 0, target.elements, scratch);
  return {bytes.begin(), bytes.end()};
}

}  // namespace

void keep_exact_values(const SegmentSource& source, std::optional<DType> asked, const fs::path& iteration) {
  std::vector<TensorSpec> specs;
  std::vector<std::vector<std::byte>> bytes;
  for (size_t r = 0; r < source.rules().rules.size(); ++r) {
    const Rule& rule = source.rules().rules[r];
    const DType plain = stored_dtype(rule, source.dtype(rule), asked);
    if (source.offset(r) == 0 || plain != source.dtype(rule) || inverts(source.buffers(), shifted(source, r, DType::f32, source.offset(r)), plain)) continue;
    specs.push_back({rule.sources[0].name, plain, rule.sources[0].shape});
    bytes.push_back(values_of(source.buffers(), shifted(source, r, plain, 0)));
  }
  if (specs.empty()) return;
  const SafetensorsPlan plan = plan_safetensors(specs);
  std::string file(plan.file_bytes, '\0');
  plan.header.copy(file.data(), plan.header.size());
  for (size_t i = 0; i < specs.size(); ++i) std::ranges::copy(std::as_bytes(std::span(bytes[i])), reinterpret_cast<std::byte*>(file.data() + plan.offsets[i]));
  write_file_atomically(iteration / kKeptFolder / kFile, file);
}

ExactValues::ExactValues(const NativeSource& source) {
  const fs::path file = source.iteration_directory() / kKeptFolder / kFile;
  if (!fs::exists(file)) return;
  file_ = std::make_unique<SafetensorsFile>(file);
  for (size_t r = 0; r < source.rules().rules.size(); ++r) {
    const Rule& rule = source.rules().rules[r];
    const TensorView* kept = native_offset(rule) == 0 ? nullptr : file_->find(rule.sources[0].name);
    if (!kept || kept->shape != rule.sources[0].shape) continue;
    const SourceBuffer original[] = {{kept->name, kept->dtype, kept->bytes}};
    const Target stored = shifted(source, r, DType::f32, 0);
    const Target wanted{kept->name, DType::f32, stored.elements, {{0, 0, 0, {{stored.elements, 1, 1}}}}, native_offset(rule)};
    if (values_of(source.buffers(), stored) == values_of(original, wanted)) values_.emplace(r, original[0]);
  }
}

std::map<size_t, int64_t> ExactValues::append_to(std::vector<SourceBuffer>& buffers) const {
  std::map<size_t, int64_t> out;
  for (const auto& [rule, bytes] : values_) {
    out[rule] = static_cast<int64_t>(buffers.size());
    buffers.push_back(bytes);
  }
  return out;
}

}  // namespace ponte
