#include "text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte::jinja {
namespace {

constexpr int kMaxDepth = 200;  // nesting of values printed or compared

// A namespace can hold itself, so every walk over values counts its depth.
class Depth {
 public:
  explicit Depth(int& depth) : depth_(depth) { require(++depth_ < kMaxDepth, "a value nested deeper than {}", kMaxDepth); }
  ~Depth() { --depth_; }

 private:
  int& depth_;
};

std::string hex(uint32_t value, int digits) {
  std::string out;
  for (int i = digits - 1; i >= 0; --i) out += "0123456789abcdef"[value >> (4 * i) & 15];
  return out;
}

std::string quote_text(std::string_view text) {
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    const auto c = unicode::decode(at);
    const auto k = unicode::tables().category_of(c.code);
    const bool printable = c.code == ' ' || !(k >= unicode::Category::space || k == unicode::Category::unassigned);
    if (c.code == static_cast<uint32_t>(quote) || c.code == '\\') out += '\\', out += *at;
    else if (c.code == '\n') out += "\\n";
    else if (c.code == '\r') out += "\\r";
    else if (c.code == '\t') out += "\\t";
    else if (printable) out.append(at, c.bytes);
    else if (c.code < 0x100) out += "\\x" + hex(c.code, 2);
    else if (c.code < 0x10000) out += "\\u" + hex(c.code, 4);
    else out += "\\U" + hex(c.code, 8);
    at += c.bytes;
  }
  return out + quote;
}

std::string repr_of(const Value& v, int& depth);

std::string repr_items(const Dict& dict, int& depth) {
  std::string out = "{";
  for (const auto& [key, value] : dict.items) out += (out.size() > 1 ? ", " : "") + repr_of(key, depth) + ": " + repr_of(value, depth);
  return out + "}";
}

std::string repr_of(const Value& v, int& depth) {
  const Depth guard(depth);
  if (const Text* text = v.as_text()) return quote_text(text->bytes);
  if (const Dict* dict = v.as_dict()) return repr_items(*dict, depth);
  if (const Sequence* s = v.as_sequence()) {
    if (s->kind == Sequence::Kind::generator) return "<generator object>";
    const bool tuple = s->kind == Sequence::Kind::tuple;
    std::string out(1, tuple ? '(' : '[');
    for (const Value& item : s->items) out += (out.size() > 1 ? ", " : "") + repr_of(item, depth);
    return out + (tuple ? (s->items.size() == 1 ? ",)" : ")") : "]");
  }
  if (const Namespace* n = v.as_namespace()) return "<Namespace " + repr_items(n->variables, depth) + ">";
  if (v.as_undefined()) return "Undefined";
  if (v.is_callable() || v.as_loop()) return std::string("<") + v.type_name() + ">";
  return v.str();
}

int rank(const Value& v) { return v.is_number() ? 0 : v.as_text() ? 1 : v.as_sequence() ? 2 : 3; }

bool equal_at(const Value& a, const Value& b, int& depth) {
  const Depth guard(depth);
  if (a.is_number() && b.is_number()) {
    if (a.is_double() || b.is_double()) return a.number_value() == b.number_value();
    return a.integer_value() == b.integer_value();
  }
  if (a.as_text() && b.as_text()) return a.as_text()->bytes == b.as_text()->bytes;
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.as_undefined() || b.as_undefined()) return a.as_undefined() && b.as_undefined();
  const Sequence *s = a.as_sequence(), *t = b.as_sequence();
  if (s && t) {
    if (s->kind != t->kind || s->items.size() != t->items.size()) return false;
    for (size_t i = 0; i < s->items.size(); ++i)
      if (!equal_at(s->items[i], t->items[i], depth)) return false;
    return true;
  }
  if (a.as_dict() && b.as_dict()) {
    if (a.as_dict()->items.size() != b.as_dict()->items.size()) return false;
    for (const auto& [key, value] : a.as_dict()->items) {
      const Value* other = b.as_dict()->find(key);
      if (!other || !equal_at(value, *other, depth)) return false;
    }
    return true;
  }
  return a.as_namespace() && a.as_namespace() == b.as_namespace();
}

}  // namespace

const Value* Dict::find(const Value& key) const {
  if (const Text* text = key.as_text()) return find(text->bytes);
  for (const auto& item : items)
    if (equal(item.first, key)) return &item.second;
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& item : items)
    if (const Text* text = item.first.as_text(); text && text->bytes == key) return &item.second;
  return nullptr;
}

void Dict::set(Value key, Value value) {
  if (const Value* known = find(key)) *const_cast<Value*>(known) = std::move(value);
  else items.emplace_back(std::move(key), std::move(value));
}

bool Value::truthy() const {
  if (is_none() || as_undefined()) return false;
  if (is_number()) return is_double() ? number_value() != 0 : integer_value() != 0;
  if (const Text* text = as_text()) return !text->bytes.empty();
  if (const Sequence* s = as_sequence()) return s->kind == Sequence::Kind::generator || !s->items.empty();
  if (const Dict* dict = as_dict()) return !dict->items.empty();
  return true;
}

std::string python_float(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), v, std::chars_format::scientific).ptr;
  std::string_view all(buffer, static_cast<size_t>(end - buffer));
  const size_t e = all.find('e');
  const int exponent = std::stoi(std::string(all.substr(e + 1)));
  if (exponent < -4 || exponent >= 16) {  // scientific, two digits of exponent at least
    return std::string(all.substr(0, e)) + "e" + (exponent < 0 ? "-" : "+") + (std::abs(exponent) < 10 ? "0" : "") + std::to_string(std::abs(exponent));
  }
  const auto fixed_end = std::to_chars(buffer, buffer + sizeof(buffer), v, std::chars_format::fixed).ptr;
  std::string out(buffer, fixed_end);
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

std::string Value::str() const {
  if (const Text* text = as_text()) return text->bytes;
  if (is_none()) return "None";
  if (as_undefined()) return "";
  if (is_bool()) return std::get<bool>(data_) ? "True" : "False";
  if (is_integer()) return std::to_string(std::get<int64_t>(data_));
  if (is_double()) return python_float(std::get<double>(data_));
  int depth = 0;
  return repr_of(*this, depth);
}

std::string Value::repr() const {
  int depth = 0;
  return repr_of(*this, depth);
}

const char* Value::type_name() const {
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_integer()) return "int";
  if (is_double()) return "float";
  if (as_text()) return "str";
  if (as_undefined()) return "Undefined";
  if (as_dict()) return "dict";
  if (const Sequence* s = as_sequence()) return s->kind == Sequence::Kind::list ? "list" : s->kind == Sequence::Kind::tuple ? "tuple" : "generator";
  if (as_namespace()) return "Namespace";
  if (as_loop()) return "LoopContext";
  return as_macro() ? "Macro" : "function";
}

bool equal(const Value& a, const Value& b) {
  int depth = 0;
  return equal_at(a, b, depth);
}

int compare(const Value& a, const Value& b) {
  if (rank(a) == 0 && rank(b) == 0) {
    if (!a.is_double() && !b.is_double()) return a.integer_value() < b.integer_value() ? -1 : a.integer_value() > b.integer_value();
    return a.number_value() < b.number_value() ? -1 : a.number_value() > b.number_value();
  }
  if (rank(a) == 1 && rank(b) == 1) {
    const int c = a.as_text()->bytes.compare(b.as_text()->bytes);
    return c < 0 ? -1 : c > 0;
  }
  if (rank(a) == 2 && rank(b) == 2 && a.as_sequence()->kind == b.as_sequence()->kind) {
    const auto &x = a.as_sequence()->items, &y = b.as_sequence()->items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i)
      if (!equal(x[i], y[i])) return compare(x[i], y[i]);
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  if (const Undefined* u = a.as_undefined() ? a.as_undefined() : b.as_undefined()) fail("{}", u->why);
  fail("no order between '{}' and '{}'", a.type_name(), b.type_name());
}

Value from_json(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean: return Value::boolean(json.get<bool>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX) return Value(json.get<double>());
      [[fallthrough]];
    case Json::value_t::number_integer: return Value::integer(json.get<int64_t>());
    case Json::value_t::number_float: return Value(json.get<double>());
    case Json::value_t::string: {
      std::string text;
      unicode::append_lossy(text, json.get_ref<const std::string&>());
      return Value::text(std::move(text));
    }
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(from_json(item));
      return Value::list(std::move(items));
    }
    case Json::value_t::object: {
      Dict dict;
      for (const auto& [key, value] : json.items()) dict.items.emplace_back(Value::text(key), from_json(value));
      return Value::dict(std::move(dict));
    }
    default: return Value();
  }
}

namespace {

void json_string(std::string& out, std::string_view text, bool ascii) {
  out += '"';
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    const auto c = unicode::decode(at);
    switch (c.code) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\f': out += "\\f"; break;
      case '\b': out += "\\b"; break;
      default:
        if (c.code < 0x20 || (ascii && c.code >= 0x7F && c.code < 0x10000 && (c.code != 0x7F))) out += "\\u" + hex(c.code, 4);
        else if (ascii && c.code >= 0x10000) out += "\\u" + hex(0xD800 + ((c.code - 0x10000) >> 10), 4) + "\\u" + hex(0xDC00 + (c.code & 0x3FF), 4);
        else out.append(at, c.bytes);
    }
    at += c.bytes;
  }
  out += '"';
}

// json.dumps writes numbers, None and booleans as keys by their JSON spelling.
std::string json_key(const Value& key) {
  if (const Text* text = key.as_text()) return text->bytes;
  if (key.is_bool()) return key.truthy() ? "true" : "false";
  if (key.is_none()) return "null";
  require(key.is_number(), "tojson: a key of type '{}'", key.type_name());
  return key.str();
}

void json_value(std::string& out, const Value& v, const JsonStyle& style, int& depth) {
  const Depth guard(depth);
  const auto line = [&](int level) {
    if (style.indent >= 0) out += "\n" + std::string(static_cast<size_t>(style.indent) * static_cast<size_t>(level), ' ');
  };
  if (const Text* text = v.as_text()) return json_string(out, text->bytes, style.ascii);
  if (v.is_none()) out += "null";
  else if (v.is_bool()) out += v.truthy() ? "true" : "false";
  else if (v.is_double()) {
    const double d = v.number_value();
    out += std::isnan(d) ? "NaN" : std::isinf(d) ? (d < 0 ? "-Infinity" : "Infinity") : python_float(d);
  } else if (v.is_integer()) out += v.str();
  else if (const Dict* dict = v.as_dict()) {
    auto items = dict->items;
    if (style.sort_keys) std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
    out += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out += style.item_separator;
      line(depth);
      json_string(out, json_key(items[i].first), style.ascii);
      out += style.key_separator;
      json_value(out, items[i].second, style, depth);
    }
    if (!items.empty()) line(depth - 1);
    out += '}';
  } else if (const Sequence* s = v.as_sequence(); s && s->kind != Sequence::Kind::generator) {
    out += '[';
    for (size_t i = 0; i < s->items.size(); ++i) {
      if (i) out += style.item_separator;
      line(depth);
      json_value(out, s->items[i], style, depth);
    }
    if (!s->items.empty()) line(depth - 1);
    out += ']';
  } else {
    fail("tojson: a value of type '{}' has no JSON form", v.type_name());
  }
}

}  // namespace

std::string to_json(const Value& value, const JsonStyle& style) {
  std::string out;
  int depth = 0;
  json_value(out, value, style, depth);
  return out;
}

int64_t length(std::string_view text) {
  int64_t n = 0;
  for (const char c : text) n += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return n;
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (const char *at = text.data(), *end = at + text.size(); at < end; at += out.back().size()) out.emplace_back(at, unicode::decode(at).bytes);
  return out;
}

}  // namespace ponte::jinja
