#include "text/normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "text/unicode.h"

namespace ponte {
namespace {

constexpr CodeRun kBarriers[] = {
#include "text/normalization_barriers.inc"
};

int combining_class(uint32_t code) {
  if (code < 0x300 || is_normalization_barrier(code)) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(code))->combining_class;
}

// The full decomposition of one character; the number of its parts.
size_t decompose(uint32_t code, Compatibility compatibility, std::array<utf8proc_int32_t, 32>& parts) {
  parts[0] = static_cast<utf8proc_int32_t>(code);
  if (code < 0x80 || is_normalization_barrier(code)) return 1;
  int boundary = 0;
  const int options = UTF8PROC_DECOMPOSE | (compatibility == Compatibility::yes ? UTF8PROC_COMPAT : 0);
  const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
                                         static_cast<utf8proc_option_t>(options), &boundary);
  if (n < 1) return parts[0] = static_cast<utf8proc_int32_t>(code), 1;
  return static_cast<size_t>(n);
}

using Pairs = std::unordered_map<uint64_t, uint32_t>;
constexpr uint64_t pair_key(uint32_t first, uint32_t second) { return uint64_t{first} << 32 | second; }

// The composite of a list of parts that is already decomposed, 0 when they do not make one character.
uint32_t composite_of(const std::array<utf8proc_int32_t, 32>& parts, size_t n) {
  std::array<utf8proc_int32_t, 33> copy{};
  std::copy_n(parts.begin(), n, copy.begin());
  const auto size = utf8proc_normalize_utf32(copy.data(), static_cast<utf8proc_ssize_t>(n), static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  return size == 1 ? static_cast<uint32_t>(copy[0]) : 0;
}

// Primary composites by the two characters they are made of; Hangul is arithmetic.
Pairs primary_composites() {
  Pairs out;
  std::array<utf8proc_int32_t, 32> parts;
  for (uint32_t c = 0xC0; c < 0x30000; ++c) {
    if ((c >= 0xAC00 && c < 0xE000) || is_normalization_barrier(c)) continue;
    const size_t n = decompose(c, Compatibility::no, parts);
    if (n < 2 || composite_of(parts, n) != c) continue;
    if (const uint32_t first = composite_of(parts, n - 1)) out.emplace(pair_key(first, static_cast<uint32_t>(parts[n - 1])), c);
  }
  return out;
}

uint32_t compose(uint32_t a, uint32_t b) {
  if (a - 0x1100 < 19 && b - 0x1161 < 21) return 0xAC00 + ((a - 0x1100) * 21 + (b - 0x1161)) * 28;
  if (a - 0xAC00 < 11172 && (a - 0xAC00) % 28 == 0 && b - 0x11A8 < 27) return a + (b - 0x11A7);
  static const Pairs pairs = primary_composites();
  const auto it = pairs.find(pair_key(a, b));
  return it == pairs.end() ? 0 : it->second;
}

struct Part {
  TextChange change;
  int combining;
};

std::vector<Part> decomposed(std::string_view text, Compatibility compatibility) {
  std::vector<Part> out;
  out.reserve(text.size());
  std::array<utf8proc_int32_t, 32> parts;
  size_t pending = 0;  // first of the characters that may still change places
  const auto sort = [&] {
    std::stable_sort(out.begin() + static_cast<std::ptrdiff_t>(pending), out.end(), [](const Part& a, const Part& b) { return a.combining < b.combining; });
    pending = out.size();
  };
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    const auto c = unicode::decode(at);
    at += c.bytes;
    const size_t n = decompose(c.code, compatibility, parts);
    for (size_t i = 0; i < n; ++i) {
      const auto code = static_cast<uint32_t>(parts[i]);
      const int combining = combining_class(code);
      if (combining == 0) sort();
      out.push_back({{code, i ? 1 : 0}, combining});
    }
  }
  sort();
  return out;
}

// The composition algorithm of the standard; a composed character counts the changes of both its parts.
std::vector<TextChange> recomposed(const std::vector<Part>& parts) {
  std::vector<TextChange> out;
  out.reserve(parts.size());
  size_t starter = SIZE_MAX;  // in `out`
  int last = -1;              // class of the last character kept behind the starter, -1 for none
  for (const auto& [change, combining] : parts) {
    if (starter != SIZE_MAX && (last < 0 || last < combining))
      if (const uint32_t composite = compose(out[starter].code, change.code)) {
        out[starter] = {composite, out[starter].change + change.change - 1};
        continue;
      }
    out.push_back(change);
    if (combining == 0) starter = out.size() - 1, last = -1;
    else if (starter != SIZE_MAX) last = combining;
  }
  return out;
}

}  // namespace

std::span<const CodeRun> normalization_barriers() { return kBarriers; }

bool is_normalization_barrier(uint32_t code) {
  const auto* after = std::upper_bound(std::begin(kBarriers), std::end(kBarriers), code, [](uint32_t c, const CodeRun& run) { return c < run.first; });
  return after != std::begin(kBarriers) && code <= after[-1].last;
}

std::vector<TextChange> normal_form(std::string_view text, Composition composition, Compatibility compatibility) {
  const std::vector<Part> parts = decomposed(text, compatibility);
  if (composition == Composition::yes) return recomposed(parts);
  std::vector<TextChange> out;
  out.reserve(parts.size());
  for (const Part& part : parts) out.push_back(part.change);
  return out;
}

}  // namespace ponte
