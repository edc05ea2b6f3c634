// Oniguruma's Ruby syntax to PCRE2's: the constructs that mean the same pass, properties and \s \d \w are spelled out as ranges.
#include <algorithm>

#include "base/errors.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace ponte {
namespace {

using unicode::Category;

struct Property {
  std::string_view name;
  uint32_t categories;  // bit per Category
};

constexpr uint32_t bits(Category first, Category last) {
  uint32_t out = 0;
  for (int i = static_cast<int>(first); i <= static_cast<int>(last); ++i) out |= 1u << i;
  return out;
}
constexpr uint32_t one(Category c) { return 1u << static_cast<int>(c); }

using enum Category;
constexpr Property kProperties[] = {
    {"L", bits(uppercase, other_letter)}, {"Letter", bits(uppercase, other_letter)}, {"M", bits(nonspacing, enclosing)}, {"Mark", bits(nonspacing, enclosing)},
    {"N", bits(decimal, other_number)}, {"P", bits(connector, other_punctuation)}, {"Punct", bits(connector, other_punctuation)},
    {"S", bits(math, other_symbol)}, {"Z", bits(space, paragraph)}, {"C", bits(control, surrogate) | one(unassigned)},
    {"Lu", one(uppercase)}, {"Ll", one(lowercase)}, {"Lt", one(titlecase)}, {"Lm", one(modifier_letter)}, {"Lo", one(other_letter)},
    {"Mn", one(nonspacing)}, {"Mc", one(spacing)}, {"Me", one(enclosing)}, {"Nd", one(decimal)}, {"Nl", one(letter_number)}, {"No", one(other_number)},
    {"Pc", one(connector)}, {"Pd", one(dash)}, {"Ps", one(open)}, {"Pe", one(close)}, {"Pi", one(initial_quote)}, {"Pf", one(final_quote)},
    {"Po", one(other_punctuation)}, {"Sm", one(math)}, {"Sc", one(currency)}, {"Sk", one(modifier_symbol)}, {"So", one(other_symbol)},
    {"Zs", one(space)}, {"Zl", one(line)}, {"Zp", one(paragraph)}, {"Cc", one(control)}, {"Cf", one(format)}, {"Co", one(private_use)}, {"Cn",
        one(unassigned)}};

// Ranges of the code points for which `holds`, as the inside of a PCRE2 class.
template <class Holds>
std::string ranges(Holds&& holds) {
  std::string out;
  uint32_t from = 0;
  bool open = false;
  for (uint32_t c = 0; c <= 0x110000; ++c) {
    const bool in = c < 0x110000 && (c < 0xD800 || c > 0xDFFF) && holds(c);
    if (in && !open) from = c;
    if (!in && open) {
      static constexpr char kDigits[] = "0123456789abcdef";
      const auto hex = [](uint32_t v) {
        std::string text;
        do text.insert(text.begin(), kDigits[v & 15]);
        while (v >>= 4);
        return "\\x{" + text + "}";
      };
      out += hex(from);
      if (c - 1 > from) out += "-" + hex(c - 1);
    }
    open = in;
  }
  return out;
}

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view origin) : pattern_(pattern), origin_(origin) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') out_ += escape(false);
      else if (c == '[') character_class();
      else if (c == '(') group();
      else if (c == '^' || c == '$') unsupported(pattern_.substr(at_, 1));  // line anchors in Ruby's syntax
      else if (rest().starts_with("{,") || rest().starts_with("}+")) unsupported(rest().substr(0, 2));  // {0,n} and a plain + there
      else out_ += c, ++at_;
    }
    return out_;
  }

 private:
  [[noreturn]] void unsupported(std::string_view what) const {
    fail("{}: pattern '{}' uses '{}' at offset {}, which is not supported", origin_, pattern_, what, at_);
  }
  std::string_view rest() const { return pattern_.substr(at_); }

  void group() {
    for (const std::string_view opening : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"})
      if (rest().starts_with(opening)) {
        out_ += opening;
        at_ += opening.size();
        return;
      }
    if (rest().starts_with("(?")) unsupported(rest().substr(0, 4));
    out_ += "(?:";
    ++at_;
  }

  void character_class() {
    out_ += '[';
    ++at_;
    if (rest().starts_with("^")) out_ += '^', ++at_;
    for (bool first = true;; first = false) {
      if (at_ >= pattern_.size()) unsupported("[");
      const char c = pattern_[at_];
      if (c == ']' && !first) break;
      if (c == '[' || rest().starts_with("&&") || (c == ']' && first)) unsupported(rest().substr(0, 2));
      if (c == '\\') out_ += escape(true);
      else out_ += c, ++at_;
    }
    out_ += ']';
    ++at_;
  }

  std::string set(const std::string& positive, bool in_class) const { return in_class ? positive : "[" + positive + "]"; }

  std::string escape(bool in_class) {
    if (at_ + 1 >= pattern_.size()) unsupported("\\");
    const char c = pattern_[at_ + 1];
    const auto& t = unicode::tables();
    if (c == 'p' || c == 'P') return property(in_class);
    if (c == 'u' || c == 'x') return code_point();
    at_ += 2;
    switch (c) {
      case 's': return set(ranges([&](uint32_t x) { return (t.classes_of(x) & unicode::kSpace) != 0; }), in_class);
      case 'S': return set(ranges([&](uint32_t x) { return !(t.classes_of(x) & unicode::kSpace); }), in_class);
      case 'd': return set(ranges([&](uint32_t x) { return t.category_of(x) == decimal; }), in_class);
      case 'D': return set(ranges([&](uint32_t x) { return t.category_of(x) != decimal; }), in_class);
      case 'r': case 'n': case 't': case 'f': return {'\\', c};
      case 'v': return "\\x0b";
      default:
        if (std::isalnum(static_cast<unsigned char>(c)) || static_cast<uint8_t>(c) >= 0x80) at_ -= 2, unsupported(rest().substr(0, 2));
        return {'\\', c};
    }
  }

  std::string code_point() {  // \uXXXX, \xXX, \x{X...}
    const bool braces = rest().starts_with("\\x{");
    const size_t from = at_ + (braces ? 3 : 2), size = braces ? rest().find('}') : (pattern_[at_ + 1] == 'u' ? 6 : 4);
    if (size == std::string_view::npos || at_ + size > pattern_.size()) unsupported(rest().substr(0, 3));
    const std::string digits(pattern_.substr(from, at_ + size - from));
    if (digits.empty() || digits.size() > 6 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) unsupported(rest().substr(0, size));
    at_ += size + (braces ? 1 : 0);
    return "\\x{" + digits + "}";
  }

  std::string property(bool in_class) {
    bool negated = pattern_[at_ + 1] == 'P';
    const size_t close = rest().find('}');
    if (!rest().substr(2).starts_with("{") || close == std::string_view::npos) unsupported(rest().substr(0, 3));
    std::string_view name = rest().substr(3, close - 3);
    if (name.starts_with("^")) negated = !negated, name.remove_prefix(1);
    const auto* found = std::find_if(std::begin(kProperties), std::end(kProperties), [&](const Property& p) { return p.name == name; });
    if (found == std::end(kProperties)) unsupported(rest().substr(0, close + 1));
    at_ += close + 1;
    const auto& t = unicode::tables();
    return set(ranges([&](uint32_t c) { return (found->categories >> static_cast<int>(t.category_of(c)) & 1) != (negated ? 1u : 0u); }), in_class);
  }

  std::string_view pattern_, origin_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string translate_pattern(std::string_view pattern, std::string_view origin) { return Translator(pattern, origin).run(); }

}  // namespace ponte
