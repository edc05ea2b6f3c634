#include "text/unicode.h"

#include <simdjson.h>

#include <map>

namespace ponte::unicode {
namespace {

constexpr uint32_t kRuns[] = {
#include "text/unicode_categories.inc"
};

uint8_t classes_of(Category k, uint32_t c) {
  using enum Category;
  uint8_t out = 0;
  if (k >= uppercase && k <= other_letter) out |= kLetter;
  if (k >= nonspacing && k <= enclosing) out |= kMark;
  if (k >= decimal && k <= other_number) out |= kNumber;
  if (k >= connector && k <= other_symbol) out |= kPunctuation;
  if (k == uppercase || k == titlecase || k == modifier_letter || k == other_letter || (out & kMark)) out |= kUpper;
  if (k == lowercase || k == modifier_letter || k == other_letter || (out & kMark)) out |= kLower;
  if (k == space || k == line || k == paragraph || (c >= 9 && c <= 13) || c == 0x85) out |= kSpace;
  return out;
}

Tables build() {
  std::vector<uint8_t> all(0x110000);
  constexpr size_t n = std::size(kRuns);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t end = i + 1 < n ? kRuns[i + 1] >> 5 : 0x110000;
    for (uint32_t c = kRuns[i] >> 5; c < end; ++c) all[c] = kRuns[i] & 31;
  }
  Tables out;
  std::map<std::string_view, uint16_t> seen;
  for (size_t p = 0; p < out.page.size(); ++p) {
    const uint8_t* first = all.data() + p * 256;
    bool spaces = p == 0 || p == 0x16 || p == 0x20 || p == 0x30;  // \s is not a function of the category: U+0009..U+000D, U+0085
    const auto [it, fresh] = seen.try_emplace(std::string_view(reinterpret_cast<const char*>(first), 256), out.category.size() / 256);
    out.page[p] = it->second;
    if (!fresh && !spaces) continue;
    if (!fresh) out.page[p] = static_cast<uint16_t>(out.category.size() / 256);
    for (uint32_t i = 0; i < 256; ++i) {
      out.category.push_back(first[i]);
      out.classes.push_back(classes_of(static_cast<Category>(first[i]), static_cast<uint32_t>(p * 256 + i)));
    }
  }
  return out;
}

// Length of the well-formed character at the start of `s`; 0 when ill-formed, with `skip` the length of its maximal ill-formed part.
size_t well_formed(std::string_view s, size_t& skip, bool& cut) {
  const auto b = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  skip = 1;
  cut = false;
  const uint8_t lead = b(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80, high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (i == s.size()) {
      cut = true;
      return 0;
    }
    if (i == 1 ? (b(1) < low || b(1) > high) : (b(i) & 0xC0) != 0x80) return 0;
    skip = i + 1;
  }
  return length;
}

}  // namespace

const Tables& tables() {
  static const Tables built = build();
  return built;
}

bool is_word(uint32_t c) {
  const Category k = tables().category_of(c);
  if (tables().classes_of(c) & (kLetter | kMark)) return true;
  if (k == Category::decimal || k == Category::letter_number || k == Category::connector) return true;
  return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);  // Alphabetic symbols
}

void append(std::string& out, uint32_t c) {
  const auto put = [&out](uint32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) return put(0xC0 | c >> 6), put(0x80 | (c & 63));
  if (c < 0x10000) return put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
  put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 63)), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
}

bool is_valid(std::string_view bytes) { return simdjson::validate_utf8(bytes.data(), bytes.size()); }

void append_lossy(std::string& out, std::string_view bytes) {
  if (is_valid(bytes)) {
    out += bytes;
    return;
  }
  while (!bytes.empty()) {
    size_t skip;
    bool cut;
    if (const size_t n = well_formed(bytes, skip, cut)) {
      out.append(bytes, 0, n);
      bytes.remove_prefix(n);
    } else {
      out += "\xEF\xBF\xBD";
      bytes.remove_prefix(skip);
    }
  }
}

size_t lossy_step(std::string_view bytes) {
  size_t skip;
  bool cut;
  const size_t n = well_formed(bytes, skip, cut);
  return n ? n : skip;
}

size_t unfinished_tail(std::string_view bytes) {
  for (size_t n = 1; n <= 3 && n <= bytes.size(); ++n) {
    size_t skip;
    bool cut;
    if ((static_cast<uint8_t>(bytes[bytes.size() - n]) & 0xC0) == 0x80) continue;
    return !well_formed(bytes.substr(bytes.size() - n), skip, cut) && cut ? n : 0;
  }
  return 0;
}

}  // namespace ponte::unicode
