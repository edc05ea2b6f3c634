// YAML to YamlValue with yaml-cpp's event parser: no node graph, so aliases cannot multiply a small file and depth is bounded while reading.
#include "config/value.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <sstream>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr size_t kMaxDepth = 100;
constexpr size_t kMaxBytes = 16 << 20;

// A serialised Python object with no fields of its own is its name.
void simplify(YamlValue& value) {
  const YamlValue* target = value.find("_target_");
  if (!target || !target->is_scalar()) return;
  for (const auto& [key, entry] : value.entries)
    if (key != "_target_" && key != "_call_" && key != "_args_" && key != "_name_") return;
  const YamlValue* name = value.find("_name_");
  // An object that is called without arguments ({_target_: Class} alone) stays a map: it is a section, not a value.
  if (!name && value.entries.size() == 1) return;
  YamlValue scalar;
  scalar.kind = YamlValue::Kind::scalar;
  scalar.text = name && name->is_scalar() ? name->text : target->text;
  scalar.line = value.line;
  value = std::move(scalar);
}

class Builder : public YAML::EventHandler {
 public:
  explicit Builder(const std::string& file) : file_(file) {}
  YamlValue take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { place(YamlValue{}, mark); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { fail("{} line {}: aliases (*name) are not read", file_, mark.line + 1); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& text) override {
    // yaml-cpp reads the escapes \N and \_ as single bytes of Latin-1, which no other text it hands out can hold.
    require(simdjson::validate_utf8(text), "{} line {}: write the escapes \\N and \\_ as \\u0085 and \\u00a0", file_, mark.line + 1);
    YamlValue value;
    value.quoted = tag == "!";
    const bool null = !value.quoted && (text == "null" || text == "~" || text == "Null" || text == "NULL" || text.empty());
    if (!null) {
      value.kind = YamlValue::Kind::scalar;
      value.text = text;
    }
    place(std::move(value), mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(YamlValue::Kind::list, mark);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(YamlValue::Kind::map, mark);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    YamlValue value;
    std::string key;
    bool has_key = false;
  };

  void open(YamlValue::Kind kind, const YAML::Mark& mark) {
    require(levels_.size() < kMaxDepth, "{} line {}: more than {} levels of nesting", file_, mark.line + 1, kMaxDepth);
    Level level;
    level.value.kind = kind;
    level.value.line = mark.line + 1;
    levels_.push_back(std::move(level));
  }

  void close() {
    YamlValue value = std::move(levels_.back().value);
    levels_.pop_back();
    if (value.kind == YamlValue::Kind::map) simplify(value);
    add(std::move(value));
  }

  void place(YamlValue value, const YAML::Mark& mark) {
    value.line = mark.line + 1;
    add(std::move(value));
  }

  void add(YamlValue value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return;
    }
    Level& level = levels_.back();
    if (level.value.kind == YamlValue::Kind::list) {
      level.value.items.push_back(std::move(value));
    } else if (!level.has_key) {
      require(value.is_scalar(), "{} line {}: a key must be a word", file_, value.line);
      require(!level.value.find(value.text), "{} line {}: the key {} is there twice", file_, value.line, value.text);
      level.key = value.text;
      level.has_key = true;
    } else {
      level.value.entries.push_back({std::move(level.key), std::move(value)});
      level.has_key = false;
    }
  }

  const std::string& file_;
  std::vector<Level> levels_;
  YamlValue root_;
};

// Digits with single underscores between them lose those (YAML 1.1 integers: 500_000).
std::string without_underscores(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between = text[i] == '_' && i > 0 && i + 1 < text.size() && isdigit(static_cast<unsigned char>(text[i - 1])) &&
                         isdigit(static_cast<unsigned char>(text[i + 1]));
    if (!between) out += text[i];
  }
  return out;
}

// Line ends and tabs aside, YAML files hold no control characters; a quoted scalar may spell them out.
bool is_control(char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' && c != '\r') || c == 0x7f; }
bool must_be_escaped(char c) { return is_control(c) || c == '\n' || c == '\t' || c == '\r' || c == '\\'; }

bool reads_as_other_type(std::string_view text) {
  for (std::string_view word :
       {"null", "Null", "NULL", "~", "true", "false", "True", "False", "TRUE", "FALSE", "yes", "no", "on", "off", "Yes", "No", "On", "Off"})
    if (text == word) return true;
  YamlValue value;
  value.kind = YamlValue::Kind::scalar;
  value.text = text;
  double number;
  return read_number(value, number);
}

}  // namespace

const YamlValue* YamlValue::find(std::string_view key) const {
  for (const auto& [name, value] : entries)
    if (name == key) return &value;
  return nullptr;
}

YamlValue parse_value(std::string_view yaml, const std::string& file) {
  require(yaml.size() <= kMaxBytes, "{}: {} bytes are too many for a configuration", file, yaml.size());
  require(simdjson::validate_utf8(yaml), "{}: not UTF-8 text", file);
  const auto strange = std::find_if(yaml.begin(), yaml.end(), is_control);
  require(strange == yaml.end(), "{} line {}: the byte {} is not text", file, 1 + std::count(yaml.begin(), strange, '\n'),
          static_cast<int>(static_cast<unsigned char>(strange == yaml.end() ? 0 : *strange)));
  std::istringstream stream{std::string(yaml)};
  Builder builder(file);
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return {};
    YamlValue root = builder.take();
    Builder rest(file);
    require(!parser.HandleNextDocument(rest), "{}: more than one YAML document", file);
    return root;
  } catch (const YAML::Exception& error) {
    fail("{} line {}: {}", file, error.mark.line + 1, error.msg);
  }
}

std::string describe(const YamlValue& value) {
  switch (value.kind) {
    case YamlValue::Kind::null: return "null";
    case YamlValue::Kind::scalar: return value.text;
    case YamlValue::Kind::list: {
      std::string out = "[";
      for (const YamlValue& item : value.items) out += (out.size() > 1 ? ", " : "") + describe(item);
      return out + "]";
    }
    case YamlValue::Kind::map: {
      std::string out = "{";
      for (const auto& [key, entry] : value.entries) out += (out.size() > 1 ? ", " : "") + key + ": " + describe(entry);
      return out + "}";
    }
  }
  return {};
}

std::string yaml_text(std::string_view text) {
  const bool escaped = std::any_of(text.begin(), text.end(), must_be_escaped);
  const bool word = !text.empty() && !escaped && !reads_as_other_type(text) && text.find_first_of("#,[]{}&*!|>'\"%@`") == std::string_view::npos;
  const bool plain = word && text.find(':') == std::string_view::npos &&
                     text.front() != '-' && text.front() != '?' && text.front() != '=' && text.front() != ' ' && text.back() != ' ';
  // A colon is harmless unless a space or the end follows it; paths and hub ids may hold one.
  const bool colon_only = word && text.find(": ") == std::string_view::npos && text.back() != ':' &&
                          isalnum(static_cast<unsigned char>(text.front())) && text.back() != ' ';
  if (plain || colon_only) return std::string(text);
  if (!escaped) {
    std::string out = "'";
    for (char c : text) out += c == '\'' ? std::string("''") : std::string(1, c);
    return out + "'";
  }
  std::string out = "\"";
  for (char c : text) {
    constexpr const char* kHex = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (must_be_escaped(c) && c != '\\') out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    else if (c == '"' || c == '\\') out += std::string("\\") + c;
    else out += c;
  }
  return out + "\"";
}

std::string yaml_number(double value) {
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  if (std::isnan(value)) return ".nan";
  // As Python's repr: shortest digits, an exponent below 1e-4 and from 1e16 on.
  const double size = std::fabs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value, plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string out(buffer, result.ptr);
  const size_t exponent = out.find('e');
  if (out.find('.') == std::string::npos) {
    if (exponent == std::string::npos) out += ".0";
    else out.insert(exponent, ".0");
  }
  return out;
}

bool read_boolean(const YamlValue& value, bool& out) {
  if (!value.is_scalar() || value.quoted) return false;
  if (value.text == "true" || value.text == "True" || value.text == "TRUE") return out = true, true;
  if (value.text == "false" || value.text == "False" || value.text == "FALSE") return out = false, true;
  return false;
}

bool read_integer(const YamlValue& value, int64_t& out) {
  if (!value.is_scalar() || value.quoted || value.text.empty()) return false;
  const std::string digits = without_underscores(value.text[0] == '+' ? value.text.substr(1) : value.text);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
  return error == std::errc() && end == digits.data() + digits.size();
}

bool read_number(const YamlValue& value, double& out) {
  if (!value.is_scalar() || value.quoted || value.text.empty()) return false;
  const std::string& text = value.text;
  if (text == ".inf" || text == "inf" || text == "+.inf") return out = INFINITY, true;
  if (text == "-.inf" || text == "-inf") return out = -INFINITY, true;
  const std::string digits = without_underscores(text[0] == '+' ? text.substr(1) : text);
  if (digits.empty() || !(isdigit(static_cast<unsigned char>(digits[0])) || digits[0] == '-' || digits[0] == '.')) return false;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
  return error == std::errc() && end == digits.data() + digits.size() && std::isfinite(out);
}

}  // namespace ponte
