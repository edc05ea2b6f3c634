#include "corpus/json_text.h"

#include <simdjson.h>

#include "base/format.h"

namespace ponte {
namespace {

constexpr int kMaxDepth = 990;  // where Python's recursion ends

std::string_view kind_of(simdjson::dom::element_type type) {
  using Type = simdjson::dom::element_type;
  switch (type) {
    case Type::ARRAY: return "a list";
    case Type::OBJECT: return "an object";
    case Type::STRING: return "a string";
    case Type::BOOL: return "true or false";
    case Type::NULL_VALUE: return "null";
    default: return "a number";
  }
}

std::string wrong_kind(std::string_view key, std::string_view kind) {
  return format("'{}' is {}, wanted a string or a list of strings", key, kind);
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
  } else if (code < 0x10000) {
    out += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
  } else {
    out += {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 0x3F)),
            static_cast<char>(0x80 | (code >> 6 & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
  }
}

// Python's json.loads as a recursive descent that keeps only the wanted keys of the outermost object.
class ExactReader {
 public:
  ExactReader(std::string_view text, const std::vector<std::string>& keys, std::vector<std::vector<std::string>>& out)
      : text_(text), keys_(keys), out_(out), kinds_(keys.size()) {}

  std::optional<std::string> run() {
    try {
      if (const size_t bad = invalid_utf8(); bad != text_.npos) stop(bad, "not valid UTF-8");
      skip_space();
      if (peek() != '{') stop(at_, "not a JSON object");
      read_object(0, true);
      skip_space();
      if (at_ < text_.size()) stop(at_, "more after the JSON object's end");
    } catch (const Stop& stop) {
      return stop.message;
    }
    for (size_t k = 0; k < keys_.size(); ++k) {
      if (kinds_[k].empty()) return format("no key '{}'", keys_[k]);
      if (kinds_[k] != "texts") return wrong_kind(keys_[k], kinds_[k]);
      for (const std::string& text : out_[k])
        if (has_lone_surrogate(text)) return format("'{}' holds a lone surrogate (\\ud800 to \\udfff), which is not text", keys_[k]);
    }
    return std::nullopt;
  }

 private:
  struct Stop {
    std::string message;
  };
  [[noreturn]] void stop(size_t at, std::string_view what) const { throw Stop{format("column {}: {}", at + 1, what)}; }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  bool take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  // Where the first byte that is no part of a character stands, or npos.
  size_t invalid_utf8() const {
    for (size_t at = 0; at < text_.size();) {
      const auto lead = static_cast<unsigned char>(text_[at]);
      const size_t length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
      if (length == 0 || length > text_.size() - at || !simdjson::validate_utf8(text_.data() + at, length)) return at;
      at += length;
    }
    return text_.npos;
  }

  // The surrogates stay as three-byte sequences until it is known whether anyone wants them.
  static bool has_lone_surrogate(std::string_view text) {
    for (size_t i = text.find('\xED'); i != text.npos && i + 1 < text.size(); i = text.find('\xED', i + 1))
      if (static_cast<unsigned char>(text[i + 1]) >= 0xA0) return true;
    return false;
  }

  uint32_t read_hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) stop(at_, "\\u needs four hexadecimal digits");
      code = code << 4 | static_cast<uint32_t>(digit);
    }
    return code;
  }

  void read_escape(std::string& out) {
    constexpr std::string_view from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
    const char c = peek();
    if (c == 'u') {
      ++at_;
      uint32_t code = read_hex4();
      if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_).starts_with("\\u")) {
        const size_t back = at_;
        at_ += 2;
        const uint32_t low = read_hex4();
        if (low >= 0xDC00 && low < 0xE000) code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        else at_ = back;
      }
      return append_utf8(out, code);
    }
    const size_t which = c == '\0' ? from.npos : from.find(c);
    if (which == from.npos) stop(at_, "an escape that JSON does not have");
    out += to[which];
    ++at_;
  }

  std::string read_string() {
    const size_t start = at_++;
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) stop(start, "a string without an end");
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20)
        stop(at_, format("control character 0x{:02x} in a string (JSON wants it escaped)", static_cast<int>(c)));
      ++at_;
      if (c == '"') return out;
      if (c == '\\') read_escape(out);
      else out += c;
    }
  }

  void read_number() {
    const size_t start = at_;
    const auto digits = [&] {
      const size_t before = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      return at_ > before;
    };
    if (peek() == '-') ++at_;
    if (peek() == '0') ++at_;
    else if (!digits()) stop(start, "not a JSON value");
    if (size_t back = at_; peek() == '.' && (++at_, !digits())) at_ = back;
    if (size_t back = at_; peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!digits()) at_ = back;
    }
  }

  // Reads any value; its kind, and its texts when it is a string or a list of strings.
  std::string_view read_value(int depth, std::vector<std::string>* texts) {
    if (depth > kMaxDepth) stop(at_, format("nested deeper than {}", kMaxDepth));
    if (texts) texts->clear();
    switch (peek()) {
      case '"': {
        std::string text = read_string();
        if (texts) texts->push_back(std::move(text));
        return "texts";
      }
      case '{': return read_object(depth, false), "an object";
      case '[': return read_list(depth, texts);
      default: break;
    }
    if (take("true") || take("false")) return "true or false";
    if (take("null")) return "null";
    if (take("NaN") || take("Infinity") || take("-Infinity")) return "a number";
    read_number();
    return "a number";
  }

  std::string_view read_list(int depth, std::vector<std::string>* texts) {
    std::string_view kind = "texts";
    ++at_;
    skip_space();
    if (peek() == ']') return ++at_, kind;
    for (;;) {
      std::vector<std::string> one;
      const bool is_string = peek() == '"';
      read_value(depth + 1, texts ? &one : nullptr);
      if (!is_string) kind = "a list with something else than strings";
      else if (texts) texts->push_back(std::move(one.front()));
      skip_space();
      if (peek() == ']') return ++at_, kind;
      if (peek() != ',') stop(at_, "wanted , or ] in a list");
      ++at_;
      skip_space();
    }
  }

  void read_object(int depth, bool outermost) {
    ++at_;
    skip_space();
    if (peek() == '}') return void(++at_);
    for (;;) {
      if (peek() != '"') stop(at_, "wanted a key in double quotes");
      const std::string key = read_string();
      skip_space();
      if (peek() != ':') stop(at_, "wanted : after a key");
      ++at_;
      skip_space();
      size_t k = 0;
      while (k < keys_.size() && !(outermost && keys_[k] == key)) ++k;
      const std::string_view kind = read_value(depth + 1, k < keys_.size() ? &out_[k] : nullptr);
      if (k < keys_.size()) kinds_[k] = kind;
      skip_space();
      if (peek() == '}') return void(++at_);
      if (peek() != ',') stop(at_, "wanted , or } in an object");
      ++at_;
      skip_space();
    }
  }

  std::string_view text_;
  const std::vector<std::string>& keys_;
  std::vector<std::vector<std::string>>& out_;
  std::vector<std::string_view> kinds_;
  size_t at_ = 0;
};

}  // namespace

struct JsonTextReader::Parser {
  simdjson::dom::parser dom;
};

JsonTextReader::JsonTextReader(std::vector<std::string> keys)
    : keys_(std::move(keys)), texts_(keys_.size()), owned_(keys_.size()), parser_(std::make_unique<Parser>()) {}
JsonTextReader::~JsonTextReader() = default;

std::optional<std::string> JsonTextReader::read(std::string_view line) {
  simdjson::dom::object object;
  if (parser_->dom.parse(line.data(), line.size(), false).get(object)) return read_exactly(line);
  std::vector<simdjson::dom::element> values(keys_.size());
  std::vector<bool> found(keys_.size(), false);
  for (const auto field : object)  // all of them: the last of equal keys counts
    for (size_t k = 0; k < keys_.size(); ++k)
      if (field.key == keys_[k]) values[k] = field.value, found[k] = true;
  for (size_t k = 0; k < keys_.size(); ++k) {
    texts_[k].clear();
    if (!found[k]) return format("no key '{}'", keys_[k]);
    std::string_view text;
    simdjson::dom::array list;
    if (!values[k].get(text)) {
      texts_[k].push_back(text);
    } else if (!values[k].get(list)) {
      for (const auto element : list) {
        if (element.get(text)) return wrong_kind(keys_[k], "a list with something else than strings");
        texts_[k].push_back(text);
      }
    } else {
      return wrong_kind(keys_[k], kind_of(values[k].type()));
    }
  }
  return std::nullopt;
}

std::optional<std::string> JsonTextReader::read_exactly(std::string_view line) {
  auto problem = ExactReader(line, keys_, owned_).run();
  for (size_t k = 0; k < keys_.size(); ++k) texts_[k].assign(owned_[k].begin(), owned_[k].end());
  return problem;
}

}  // namespace ponte
