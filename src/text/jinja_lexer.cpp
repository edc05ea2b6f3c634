#include "text/jinja_lexer.h"

#include <algorithm>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte::jinja {
namespace {

using Kind = Token::Kind;

bool space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool digit(char c) { return c >= '0' && c <= '9'; }
bool name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view origin) : origin_(origin) {
    // Line ends become \n, and one at the very end is dropped.
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        source_ += '\n';
        i += i + 1 < source.size() && source[i + 1] == '\n';
      } else {
        source_ += source[i];
      }
    }
    if (source_.ends_with('\n')) source_.pop_back();
  }

  std::vector<Token> run() {
    require(unicode::is_valid(source_), "{}: not UTF-8", origin_);
    while (at_ < source_.size()) {
      const size_t tag = next_tag();
      text_until(tag);
      if (at_ == source_.size()) break;
      if (source_[at_ + 1] == '#') comment();
      else if (raw_begins()) raw();
      else code();
    }
    push(Kind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void error(const std::string& what) const { fail("{}, line {}: {}", origin_, line_, what); }
  void push(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  char peek(size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0'; }
  bool looking_at(std::string_view text) const { return std::string_view(source_).substr(at_).starts_with(text); }
  void advance(size_t n) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + at_ + n, '\n'));
    at_ += n;
    if (n) line_starting_ = source_[at_ - 1] == '\n';
  }
  void skip_spaces() {
    size_t n = 0;
    while (space(peek(n))) ++n;
    advance(n);
  }

  // Where the next {{, {% or {# stands, or the end.
  size_t next_tag() const {
    for (size_t i = at_; (i = source_.find('{', i)) != std::string::npos && i + 1 < source_.size(); ++i)
      if (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#') return i;
    return source_.size();
  }

  // The text up to a tag, with what the tag's sign or lstrip_blocks strips off its end.
  void text_until(size_t tag) {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    const bool at_line_start = line_starting_;
    if (tag < source_.size()) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      if (sign == '-') {
        while (!text.empty() && space(text.back())) text.remove_suffix(1);
      } else if (sign != '+' && source_[tag + 1] != '{') {
        const size_t newline = text.rfind('\n');
        const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
        if ((line > 0 || at_line_start) && std::all_of(text.begin() + line, text.end(), space)) text = text.substr(0, line);
      }
    }
    if (!text.empty()) push(Kind::data, std::string(text));
    advance(tag - at_);
  }

  void comment() {
    const size_t close = source_.find("#}", at_ + 2);
    if (close == std::string::npos) error("a comment without its end '#}'");
    const char sign = close > at_ + 2 ? source_[close - 1] : '\0';
    advance(close + 2 - at_);
    after_tag(sign);
  }
  // What follows the end of a block or comment: all white space after '-', one newline unless '+'.
  void after_tag(char sign) {
    if (sign == '-') skip_spaces();
    else if (sign != '+' && peek() == '\n') advance(1);
  }

  // Length of `{% NAME %}` at `from` with its signs; 0 when it is something else. `sign`: that of the closing side.
  size_t bare_tag(size_t from, std::string_view name, char& sign) const {
    size_t i = from + 2;
    const auto skip = [&] { while (i < source_.size() && space(source_[i])) ++i; };
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
    skip();
    if (std::string_view(source_).substr(i, name.size()) != name) return 0;
    i += name.size();
    skip();
    sign = '\0';
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) sign = source_[i++];
    return std::string_view(source_).substr(i, 2) == "%}" ? i + 2 - from : 0;
  }
  bool raw_begins() const {
    char sign;
    return source_[at_ + 1] == '%' && bare_tag(at_, "raw", sign) != 0;
  }
  void raw() {
    char sign;
    advance(bare_tag(at_, "raw", sign));
    if (sign == '-') skip_spaces();
    for (size_t i = at_; (i = source_.find("{%", i)) != std::string::npos; ++i)
      if (const size_t n = bare_tag(i, "endraw", sign)) {
        text_until(i);
        advance(n);
        return after_tag(sign);
      }
    error("raw without endraw");
  }

  // {{ ... }} or {% ... %}
  void code() {
    const bool variable = source_[at_ + 1] == '{';
    const std::string_view closing = variable ? "}}" : "%}";
    push(variable ? Kind::variable_begin : Kind::block_begin, std::string(source_.substr(at_, 2)));
    advance(2);
    if (peek() == '-' || peek() == '+') advance(1);
    std::string open;  // brackets not yet closed; while there are any, the closing tag is not one
    for (;;) {
      skip_spaces();
      if (at_ >= source_.size()) error(format("'{}' is missing", closing));
      if (open.empty()) {
        const char sign = (peek() == '-' || (peek() == '+' && !variable)) && std::string_view(source_).substr(at_ + 1).starts_with(closing) ? peek() : '\0';
        if (sign || looking_at(closing)) {
          push(variable ? Kind::variable_end : Kind::block_end, "");
          advance(sign ? 3 : 2);
          if (!variable) after_tag(sign);
          else if (sign == '-') skip_spaces();
          return;
        }
      }
      token(open);
    }
  }

  void token(std::string& open) {
    const char c = peek();
    if (c == '"' || c == '\'') return string();
    if (digit(c)) return number();
    if (name_start(c)) {
      size_t n = 1;
      while (name_start(peek(n)) || digit(peek(n))) ++n;
      push(Kind::name, source_.substr(at_, n));
      return advance(n);
    }
    for (const std::string_view op : {"//", "**", "==", "!=", ">=", "<="})
      if (looking_at(op)) {
        push(Kind::op, std::string(op));
        return advance(2);
      }
    if (std::string_view("+-*/%~[](){}><=.:|,").find(c) == std::string_view::npos) error(format("unexpected character '{}'", std::string(1, c)));
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) error(format("unexpected '{}'", std::string(1, c)));
      open.pop_back();
    }
    push(Kind::op, std::string(1, c));
    advance(1);
  }

  void number() {
    size_t n = 0;
    const auto digits = [&] { while (digit(peek(n)) || (peek(n) == '_' && digit(peek(n + 1)))) ++n; };
    digits();
    bool real = false;
    if (peek(n) == '.' && digit(peek(n + 1))) ++n, real = true, digits();
    const size_t sign = peek(n + 1) == '+' || peek(n + 1) == '-';
    if ((peek(n) == 'e' || peek(n) == 'E') && digit(peek(n + 1 + sign))) n += 1 + sign, real = true, digits();
    std::string text = source_.substr(at_, n);
    std::erase(text, '_');
    push(real ? Kind::real : Kind::integer, text);
    advance(n);
  }

  void string() {
    const char quote = peek();
    size_t n = 1;
    while (at_ + n < source_.size() && source_[at_ + n] != quote) n += source_[at_ + n] == '\\' ? 2 : 1;
    if (at_ + n >= source_.size()) error("a string without its end");
    const std::string inside = source_.substr(at_ + 1, n - 1);
    push(Kind::string, unescaped(inside));
    advance(n + 1);
  }

  // Python's unicode-escape; what is no escape stays.
  std::string unescaped(const std::string& in) const {
    std::string out;
    for (size_t i = 0; i < in.size(); ++i) {
      if (in[i] != '\\' || i + 1 >= in.size()) {
        out += in[i];
        continue;
      }
      constexpr std::string_view kFrom = "ntrabfv\\'\"", kTo = "\n\t\r\a\b\f\v\\'\"";
      const char c = in[++i];
      if (const size_t k = kFrom.find(c); k != std::string_view::npos) out += kTo[k];
      else if (c == '\n') continue;
      else if (c == 'x' || c == 'u' || c == 'U') append_code(out, in, i, 16, c == 'x' ? 2 : c == 'u' ? 4 : 8);
      else if (c >= '0' && c <= '7') --i, append_code(out, in, i, 8, 3);
      else if (c == 'N') error("the escape \\N{...} is not supported");
      else out += '\\', out += c;
    }
    return out;
  }
  // Reads digits behind in[i]; leaves i on the last of them.
  void append_code(std::string& out, const std::string& in, size_t& i, int base, int most) const {
    uint32_t value = 0;
    int n = 0;
    for (; n < most && i + 1 < in.size(); ++n, ++i) {
      const char c = in[i + 1];
      const int v = digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
      if (v >= base) break;
      value = value * static_cast<uint32_t>(base) + static_cast<uint32_t>(v);
    }
    if (base == 16 && n != most) error("a cut-off escape in a string");
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) error("an escape that is no character");
    unicode::append(out, value);
  }

  std::string_view origin_;
  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view source, std::string_view origin) { return Lexer(source, origin).run(); }

}  // namespace ponte::jinja
