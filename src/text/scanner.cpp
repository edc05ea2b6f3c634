// Recognises patterns, and chooses the widest scanner the machine has.
#include "text/scanner.h"

#include <array>
#include <bit>

#include "text/scanner_matcher.h"
#include "text/unicode.h"

#if defined(__SSE2__)
#include <immintrin.h>

namespace ponte::window_v1 {
struct Block {
  explicit Block(const char* p) {
    for (int i = 0; i < 4; ++i) part[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i);
  }
  template <class IsIn>
  static uint64_t mask(IsIn&& is_in) {
    uint64_t out = 0;
    for (int i = 0; i < 4; ++i) out |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(is_in(i)))) << (16 * i);
    return out;
  }
  static __m128i within(__m128i bytes, uint8_t first, uint8_t last) {
    const __m128i from = _mm_sub_epi8(bytes, _mm_set1_epi8(static_cast<char>(first)));
    return _mm_cmpeq_epi8(_mm_min_epu8(from, _mm_set1_epi8(static_cast<char>(last - first))), from);
  }
  uint64_t in_range(uint8_t first, uint8_t last) const {
    return mask([&](int i) { return within(part[i], first, last); });
  }
  uint64_t ascii_letters() const {
    return mask([&](int i) { return within(_mm_or_si128(part[i], _mm_set1_epi8(0x20)), 'a', 'z'); });
  }
  __m128i part[4];
};
#include "text/scanner_window.inc"
}  // namespace ponte::window_v1

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt")
#endif
namespace ponte::window_v3 {
struct Block {
  explicit Block(const char* p)
      : low(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), high(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))) {}
  static uint64_t both(__m256i low_bytes, __m256i high_bytes) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(low_bytes)) | static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(high_bytes))) << 32;
  }
  static __m256i within(__m256i bytes, uint8_t first, uint8_t last) {
    const __m256i from = _mm256_sub_epi8(bytes, _mm256_set1_epi8(static_cast<char>(first)));
    return _mm256_cmpeq_epi8(_mm256_min_epu8(from, _mm256_set1_epi8(static_cast<char>(last - first))), from);
  }
  uint64_t in_range(uint8_t first, uint8_t last) const { return both(within(low, first, last), within(high, first, last)); }
  uint64_t ascii_letters() const {
    const __m256i small = _mm256_set1_epi8(0x20);
    return both(within(_mm256_or_si256(low, small), 'a', 'z'), within(_mm256_or_si256(high, small), 'a', 'z'));
  }
  __m256i low, high;
};
#include "text/scanner_window.inc"
}  // namespace ponte::window_v3
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx2,bmi,bmi2,lzcnt,popcnt")
#endif
namespace ponte::window_v4 {
struct Block {
  explicit Block(const char* p) : bytes(_mm512_loadu_si512(p)) {}
  static uint64_t within(__m512i bytes, uint8_t first, uint8_t last) {
    return _mm512_cmple_epu8_mask(_mm512_sub_epi8(bytes, _mm512_set1_epi8(static_cast<char>(first))), _mm512_set1_epi8(static_cast<char>(last - first)));
  }
  uint64_t in_range(uint8_t first, uint8_t last) const { return within(bytes, first, last); }
  uint64_t ascii_letters() const { return within(_mm512_or_si512(bytes, _mm512_set1_epi8(0x20)), 'a', 'z'); }
  __m512i bytes;
};
#include "text/scanner_window.inc"
}  // namespace ponte::window_v4
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace ponte {
namespace {

#if defined(__SSE2__)
template <ScanRules R>
constexpr std::array<ScanWords, 3> kWindows = {window_v1::scan_windows<R>, window_v3::scan_windows<R>, window_v4::scan_windows<R>};

bool machine_has(size_t width) {
  if (width == 2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  if (width == 3) return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
  return true;
}
#else
template <ScanRules R>
constexpr std::array<ScanWords, 3> kWindows = {nullptr, nullptr, nullptr};

bool machine_has(size_t) { return true; }
#endif

template <ScanRules R>
size_t scan_words(const char*& at, const char* end, const char** word_ends, size_t capacity) {
  const Matcher<R> matcher(end, unicode::tables());
  const char* p = at;
  size_t n = 0;
  while (n < capacity && p < end) word_ends[n++] = p = matcher.match(p);
  at = p;
  return n;
}

// The families' patterns.
constexpr ScanRules kGpt2{Contraction::before, Letters::plain, Prefix::space, Digits::run, Trail::none, Newlines::plain};
constexpr ScanRules kQwen2{Contraction::before_caseless, Letters::plain, Prefix::any, Digits::one, Trail::newlines, Newlines::own_word};
constexpr ScanRules kQwen3Next{Contraction::before_caseless, Letters::with_marks, Prefix::any, Digits::one, Trail::newlines, Newlines::own_word};
constexpr ScanRules kLlama3{Contraction::before_caseless, Letters::plain, Prefix::any, Digits::three, Trail::newlines, Newlines::own_word};
constexpr ScanRules kO200k{Contraction::after_caseless, Letters::cased, Prefix::any, Digits::three, Trail::newlines_and_slashes, Newlines::own_word};
constexpr ScanRules kTekken{Contraction::none, Letters::cased, Prefix::any, Digits::one, Trail::newlines_and_slashes, Newlines::own_word};

struct Known {
  ScanRules rules;
  std::array<ScanWords, 4> scan;  // one match at a time, then 64 bytes at a time with instructions of x86-64 v1, v3 and v4
};
template <ScanRules R>
constexpr Known known() {
  return {R, {scan_words<R>, kWindows<R>[0], kWindows<R>[1], kWindows<R>[2]}};
}
constexpr Known kKnown[] = {known<kGpt2>(), known<kQwen2>(), known<kQwen3Next>(), known<kLlama3>(), known<kO200k>(), known<kTekken>()};

std::string letters_spelling(const ScanRules& r) {
  const std::string prefix = r.prefix == Prefix::space ? " ?" : R"([^\r\n\p{L}\p{N}]?)";
  const std::string suffix = r.contraction == Contraction::after_caseless ? "(?i:'s|'t|'re|'ve|'m|'ll|'d)?" : "";
  const std::string upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])", lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
  switch (r.letters) {
    case Letters::plain: return prefix + R"(\p{L}+)";
    case Letters::with_marks: return prefix + R"([\p{L}\p{M}]+)";
    default: return prefix + upper + "*" + lower + "+" + suffix + "|" + prefix + upper + "+" + lower + "*" + suffix;
  }
}

}  // namespace

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string spelling(const ScanRules& r) {
  std::string out;
  if (r.contraction == Contraction::before) out += "'s|'t|'re|'ve|'m|'ll|'d|";
  if (r.contraction == Contraction::before_caseless) out += "(?i:'s|'t|'re|'ve|'m|'ll|'d)|";
  out += letters_spelling(r);
  out += r.digits == Digits::run ? R"(| ?\p{N}+)" : r.digits == Digits::one ? R"(|\p{N})" : R"(|\p{N}{1,3})";
  out += r.letters == Letters::with_marks ? R"(| ?[^\s\p{L}\p{M}\p{N}]+)" : R"(| ?[^\s\p{L}\p{N}]+)";
  if (r.trail != Trail::none) out += r.trail == Trail::newlines ? R"([\r\n]*)" : R"([\r\n/]*)";
  if (r.newlines == Newlines::own_word) out += R"(|\s*[\r\n]+)";
  return out + R"(|\s+(?!\S)|\s+)";
}

std::vector<ScanWords> find_scanners(std::string_view pattern) {
  std::vector<ScanWords> out;
  for (const Known& known : kKnown)
    if (spelling(known.rules) == pattern)
      for (size_t width = 0; width < known.scan.size(); ++width)
        if (known.scan[width] && machine_has(width)) out.push_back(known.scan[width]);
  return out;
}

ScanWords find_scanner(std::string_view pattern) {
  const std::vector<ScanWords> found = find_scanners(pattern);
  return found.empty() ? nullptr : found.back();
}

}  // namespace ponte
