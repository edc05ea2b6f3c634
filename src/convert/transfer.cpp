#include "convert/transfer.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>

#include "base/checked.h"
#include "base/errors.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "convert/content_checks.h"

namespace ponte {
namespace {

constexpr int64_t kBlockBytes = 1 << 20;  // fits a core's second-level cache beside what hashing and checksums need

// Innermost loop of a copy: n elements, strides in elements.
using Kernel = void (*)(const std::byte* from, int64_t from_stride, std::byte* to, int64_t to_stride, int64_t n, float add);

template <class T>
void move_elements(const std::byte* from, int64_t from_stride, std::byte* to, int64_t to_stride, int64_t n, float) {
  if (from_stride == 1 && to_stride == 1) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
    return;
  }
  const int64_t f = from_stride * static_cast<int64_t>(sizeof(T)), t = to_stride * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * t, from + i * f, sizeof(T));
}

struct F32 {
  using Bits = float;
  static float widen(float v) { return v; }
  static float narrow(float v) { return v; }
};
struct Bf16 {
  using Bits = uint16_t;
  static float widen(uint16_t v) { return f32_from_bf16(v); }
  static uint16_t narrow(float v) { return bf16_from_f32(v); }
};
struct F16 {
  using Bits = uint16_t;
  static float widen(uint16_t v) { return f32_from_f16(v); }
  static uint16_t narrow(float v) { return f16_from_f32(v); }
};

template <class From, class To>
void cast_elements(const std::byte* from, int64_t from_stride, std::byte* to, int64_t to_stride, int64_t n, float add) {
  for (int64_t i = 0; i < n; ++i) {
    typename From::Bits in;
    std::memcpy(&in, from + i * from_stride * static_cast<int64_t>(sizeof in), sizeof in);
    const typename To::Bits out = To::narrow(add == 0 ? From::widen(in) : From::widen(in) + add);
    std::memcpy(to + i * to_stride * static_cast<int64_t>(sizeof out), &out, sizeof out);
  }
}

template <class From>
Kernel cast_to(DType to) {
  switch (to) {
    case DType::f32: return cast_elements<From, F32>;
    case DType::bf16: return cast_elements<From, Bf16>;
    case DType::f16: return cast_elements<From, F16>;
    default: return nullptr;
  }
}

Kernel kernel_for(DType from, DType to, float add, const std::string& name) {
  if (from == to && add == 0) switch (dtype_bytes(from)) {
      case 1: return move_elements<uint8_t>;
      case 2: return move_elements<uint16_t>;
      case 4: return move_elements<uint32_t>;
      default: return move_elements<uint64_t>;
    }
  Kernel kernel = nullptr;
  if (from == DType::f32) kernel = cast_to<F32>(to);
  if (from == DType::bf16) kernel = cast_to<Bf16>(to);
  if (from == DType::f16) kernel = cast_to<F16>(to);
  require(kernel != nullptr, "{}: no conversion from {} to {}", name, torch_name(from), torch_name(to));
  return kernel;
}

// The outer axes as an odometer, the last axis by the kernel.
void walk(const Copy& copy, size_t depth, const std::byte* from, int64_t from_bytes, std::byte* to, int64_t to_bytes, Kernel kernel,
          float add) {
  if (depth + 1 >= copy.axes.size()) {
    const CopyAxis last = copy.axes.empty() ? CopyAxis{1, 1, 1} : copy.axes.back();
    kernel(from, last.from, to, last.to, last.extent, add);
    return;
  }
  const CopyAxis& axis = copy.axes[depth];
  for (int64_t i = 0; i < axis.extent; ++i)
    walk(copy, depth + 1, from + i * axis.from * from_bytes, from_bytes, to + i * axis.to * to_bytes, to_bytes, kernel, add);
}

void check_content(const SourceBuffer& source) {
  if (source.check) source.check->require_of(source.bytes);
}

// A block that is one run of a source in its own type needs no gathering.
bool is_one_run(std::span<const Copy> parts, int64_t elements, std::span<const SourceBuffer> sources, const Target& target) {
  if (parts.size() != 1 || sources[parts[0].source].dtype != target.dtype || target.add != 0) return false;
  const auto& axes = parts[0].axes;
  return axes.empty() ? elements == 1 : axes.size() == 1 && axes[0].extent == elements && axes[0].from == 1;
}

std::string fill_target(std::span<const SourceBuffer> sources, const Target& target, size_t index, const BlockSink& sink, std::vector<std::byte>& scratch,
                        std::optional<Progress>& progress) {
  const int64_t element = dtype_bytes(target.dtype), per_block = kBlockBytes / element;
  ContentHash hash;
  for (int64_t begin = 0; begin < target.elements; begin += per_block) {
    const int64_t end = std::min(target.elements, begin + per_block);
    const auto bytes = gather(sources, target, begin, end, scratch);
    hash.update(bytes);
    const size_t size = bytes.size();
    sink(index, static_cast<uint64_t>(begin * element), bytes, bytes.data() == scratch.data() ? &scratch : nullptr);
    if (progress) progress->advance(size);
  }
  return hash.hex();
}

}  // namespace

void run_copy(const Copy& copy, const SourceBuffer& from, std::byte* to, DType to_dtype, float add) {
  check_content(from);
  const int64_t from_bytes = dtype_bytes(from.dtype), to_bytes = dtype_bytes(to_dtype);
  walk(copy, 0, from.bytes.data() + copy.from * from_bytes, from_bytes, to + copy.to * to_bytes, to_bytes,
       kernel_for(from.dtype, to_dtype, add, from.name), add);
}

std::span<const std::byte> gather(std::span<const SourceBuffer> sources, const Target& target, int64_t begin, int64_t end, std::vector<std::byte>& scratch) {
  std::vector<Copy> parts;
  for (const Copy& copy : target.copies) append_within(copy, begin, end, parts);
  int64_t covered = 0;
  for (const Copy& part : parts) covered += part.elements();
  require(covered == end - begin, "{}: elements {} to {} are fed by {} source elements; the sources do not cover it exactly", target.name, begin, end, covered);
  const auto element = static_cast<size_t>(dtype_bytes(target.dtype)), bytes = static_cast<size_t>(end - begin) * element;
  if (is_one_run(parts, end - begin, sources, target)) {
    const SourceBuffer& source = sources[parts[0].source];
    check_content(source);
    return source.bytes.subspan(static_cast<size_t>(parts[0].from) * element, bytes);
  }
  if (scratch.size() < bytes) scratch.resize(bytes);
  for (const Copy& part : parts) run_copy(part, sources[part.source], scratch.data(), target.dtype, target.add);
  return std::span(scratch).first(bytes);
}

std::vector<std::string> run_transfer(std::span<const SourceBuffer> sources, std::span<const Target> targets, const BlockSink& sink,
                                      const TransferOptions& options) {
  uint64_t total = 0;
  for (const Target& t : targets) total += static_cast<uint64_t>(checked_multiply(t.elements, dtype_bytes(t.dtype), t.name));
  // Largest first, so that no thread is left alone with an embedding at the end.
  std::vector<size_t> order(targets.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return targets[a].elements > targets[b].elements; });
  std::vector<std::string> hashes(targets.size());
  std::optional<Progress> progress;
  if (!options.label.empty()) progress.emplace(options.label, total, Progress::Unit::bytes);
  parallel_for(static_cast<int64_t>(order.size()), options.threads, [&](int64_t i) {
    std::vector<std::byte> scratch;
    hashes[order[i]] = fill_target(sources, targets[order[i]], order[i], sink, scratch, progress);
  });
  if (progress) progress->finish();
  return hashes;
}

}  // namespace ponte
