// Normal forms of whole texts, fast. The mapping is utf8proc's, held to the Unicode version `tokenizers` normalises by (9.0): younger code points
// are barriers that stay as they are and that nothing combines across. Quick check: Unicode Standard Annex 15, section 9.
#include "text/normalize.h"

#include <utf8proc.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/errors.h"
#include "text/normal_form.h"
#include "text/unicode.h"

namespace ponte {
namespace {

using unicode::Character;

enum Quick : uint8_t { inert = 0, mark = 1, maybe = 2, barrier = 3 };  // inert: combining class 0 and never changed by what stands before it

// Combining class and quick-check answer of every code point, in pages of 128.
class NormalTable {
 public:
  NormalTable() : page_(0x110000 >> 7), quick_(128, inert), combining_(128, 0) {
    for (const auto& [first, last] : normalization_barriers())
      for (uint32_t c = first; c <= last; ++c) set(c, barrier, 0);
    for (uint32_t c = 0xC0; c < 0x30000; ++c) {
      const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
      if (quick(c) == barrier || (c >= 0xAC00 && c < 0xD7A4)) continue;
      if (property->combining_class && quick(c) == inert) set(c, mark, static_cast<uint8_t>(property->combining_class));
      utf8proc_int32_t parts[32];
      int boundary = 0;
      const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32, UTF8PROC_DECOMPOSE, &boundary);
      if (n < 1 || (n == 1 && parts[0] == static_cast<utf8proc_int32_t>(c))) continue;
      if (composed(c) == c) set(static_cast<uint32_t>(parts[n - 1]), maybe, class_of(static_cast<uint32_t>(parts[n - 1])));
      else set(c, maybe, class_of(c));
    }
    for (uint32_t c = 0x1161; c <= 0x1175; ++c) set(c, maybe, 0);
    for (uint32_t c = 0x11A8; c <= 0x11C2; ++c) set(c, maybe, 0);
  }
  Quick quick(uint32_t c) const { return static_cast<Quick>(quick_[size_t{page_[c >> 7]} << 7 | (c & 127)]); }
  uint8_t combining(uint32_t c) const { return combining_[size_t{page_[c >> 7]} << 7 | (c & 127)]; }

 private:
  static uint8_t class_of(uint32_t c) { return static_cast<uint8_t>(utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class); }
  static uint32_t composed(uint32_t c) {
    std::string text;
    unicode::append(text, c);
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> out(utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str())), std::free);
    PONTE_ASSERT(out);
    const auto first = unicode::decode(reinterpret_cast<const char*>(out.get()));
    return std::strlen(reinterpret_cast<const char*>(out.get())) == first.bytes ? first.code : 0;
  }
  void set(uint32_t c, Quick quick, uint8_t combining) {
    uint16_t& page = page_[c >> 7];
    if (!page) {
      page = static_cast<uint16_t>(quick_.size() >> 7);
      quick_.resize(quick_.size() + 128, inert);
      combining_.resize(combining_.size() + 128, 0);
    }
    quick_[size_t{page} << 7 | (c & 127)] = quick;
    combining_[size_t{page} << 7 | (c & 127)] = combining;
  }
  std::vector<uint16_t> page_;
  std::vector<uint8_t> quick_, combining_;
};

const NormalTable& normal_table() {
  static const NormalTable built;
  return built;
}

// Appends the normal form of a text without barriers.
void append_mapped(std::string& out, std::string_view text, int options) {
  if (text.empty()) return;
  utf8proc_uint8_t* mapped = nullptr;
  const auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                              static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(mapped, std::free);
  require(n >= 0, "normalising a text of {} bytes: {}", text.size(), utf8proc_errmsg(n));
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(n));
}

// Appends the normal form of any text: cut at the barriers.
void append_normal(std::string& out, std::string_view text, int options) {
  const NormalTable& table = normal_table();
  const char *at = text.data(), *end = at + text.size(), *from = at;
  while (at < end) {
    const Character c = unicode::decode(at);
    if (c.code >= 0xC0 && table.quick(c.code) == barrier) {
      append_mapped(out, {from, at}, options);
      out.append(at, c.bytes);
      from = at + c.bytes;
    }
    at += c.bytes;
  }
  append_mapped(out, {from, end}, options);
}

// First byte at or after `at` that begins a character >= U+0300; everything below is NFC whatever surrounds it, unless a mark follows.
const char* skip_low(const char* at, const char* end) {
  while (end - at >= 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    const uint64_t high = word & 0x8080808080808080u;
    if (!high) {
      at += 8;
      continue;
    }
    at += __builtin_ctzll(high) / 8;
    if (static_cast<uint8_t>(*at) >= 0xCC) return at;
    at += 2;  // U+0080..U+02FF
  }
  while (at < end && static_cast<uint8_t>(*at) < 0xCC) at += static_cast<uint8_t>(*at) < 0x80 ? 1 : 2;
  return at;
}

}  // namespace

// NFC: copies the stretches that are already normal, and maps only from the last inert character before a doubtful one to the next inert one.
std::string_view to_nfc(std::string_view text, std::string& buffer) {
  const NormalTable& table = normal_table();
  const char *begin = text.data(), *end = begin + text.size(), *copied = begin, *at = begin;
  bool changed = false;
  uint8_t last_class = 0;
  while ((at = last_class ? at : skip_low(at, end)) < end) {
    const Character c = unicode::decode(at);
    const Quick quick = c.code < 0x300 ? inert : table.quick(c.code);
    if (quick == inert || quick == barrier || (quick == mark && table.combining(c.code) >= last_class)) {
      last_class = quick == mark ? table.combining(c.code) : 0;
      at += c.bytes;
      continue;
    }
    const auto stops = [&](const char* p) {
      const Quick q = table.quick(unicode::decode(p).code);
      return q == inert || q == barrier;
    };
    const char* from = at;
    while (from > copied) {
      from = unicode::previous(from);
      if (stops(from)) break;
    }
    do at += unicode::decode(at).bytes;
    while (at < end && !stops(at));
    if (!changed) buffer.clear();
    changed = true;
    buffer.append(copied, from);
    append_normal(buffer, {from, at}, UTF8PROC_COMPOSE);
    copied = at;
    last_class = 0;
  }
  if (!changed) return text;
  buffer.append(copied, end);
  return buffer;
}

void append_normal_form(std::string& out, std::string_view text, NormalizeStep::Kind form) {
  using enum NormalizeStep::Kind;
  const int compose = form == nfc || form == nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  append_normal(out, text, compose | (form == nfkc || form == nfkd ? UTF8PROC_COMPAT : 0));
}

}  // namespace ponte
