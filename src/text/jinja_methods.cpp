// Methods of str, list, tuple and dict that a template may call. Source: Python 3; what changes its object is refused, as by jinja2's sandbox.
#include <algorithm>

#include "base/errors.h"
#include "text/jinja_interpreter.h"
#include "text/unicode.h"

namespace ponte::jinja {
namespace {

using Arguments = CallArguments;
using unicode::Category;

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) { return std::find(names.begin(), names.end(), name) != names.end(); }

Category category(uint32_t c) { return unicode::tables().category_of(c); }
bool python_space(uint32_t c) { return (unicode::tables().classes_of(c) & unicode::kSpace) || (c >= 0x1C && c <= 0x1F); }
bool letter(uint32_t c) { return category(c) >= Category::uppercase && category(c) <= Category::other_letter; }

// Case by ASCII, Latin-1, Greek and Cyrillic blocks; Unicode's special cases beyond them are left as they are.
uint32_t to_lower(uint32_t c) {
  if ((c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE && c != 0xD7) || (c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F)) return c + 32;
  return c >= 0x400 && c <= 0x40F ? c + 80 : c;
}
uint32_t to_upper(uint32_t c) {
  if ((c >= 'a' && c <= 'z') || (c >= 0xE0 && c <= 0xFE && c != 0xF7) || (c >= 0x3B1 && c <= 0x3C9 && c != 0x3C2) || (c >= 0x430 && c <= 0x44F)) return c - 32;
  return c >= 0x450 && c <= 0x45F ? c - 80 : c;
}

template <class Change>
std::string mapped(std::string_view text, Change&& change) {
  std::string out;
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    const auto c = unicode::decode(at);
    unicode::append(out, change(c.code));
    at += c.bytes;
  }
  return out;
}

std::string title(std::string_view text) {
  bool inside = false;
  return mapped(text, [&](uint32_t c) {
    const uint32_t out = inside ? to_lower(c) : to_upper(c);
    inside = letter(c);
    return out;
  });
}

std::string capitalize(std::string_view text) {
  bool first = true;
  return mapped(text, [&](uint32_t c) { return std::exchange(first, false) ? to_upper(c) : to_lower(c); });
}

// strip, lstrip and rstrip; `set` null: white space.
std::string stripped(std::string_view text, const Text* set, bool left, bool right) {
  const auto drops = [&](std::string_view c) {
    return set ? set->bytes.find(c) != std::string::npos && !c.empty() : python_space(unicode::decode(c.data()).code);
  };
  while (left && !text.empty()) {
    const size_t n = unicode::decode(text.data()).bytes;
    if (!drops(text.substr(0, n))) break;
    text.remove_prefix(n);
  }
  while (right && !text.empty()) {
    const auto n = static_cast<size_t>(text.data() + text.size() - unicode::previous(text.data() + text.size()));
    if (!drops(text.substr(text.size() - n))) break;
    text.remove_suffix(n);
  }
  return std::string(text);
}

const Text& text_argument(const Arguments& a, size_t i, std::string_view name, std::string_view method) {
  const Value* v = a.find(i, name);
  require(v, "{}: argument '{}' is missing", method, name);
  if (v->as_undefined()) fail("{}", v->as_undefined()->why);
  require(v->as_text(), "{}: '{}' is of type '{}', wanted str", method, name, v->type_name());
  return *v->as_text();
}

int64_t integer_argument(const Arguments& a, size_t i, std::string_view name, int64_t fallback) {
  const Value* v = a.find(i, name);
  if (!v) return fallback;
  require(v->is_number() && !v->is_double(), "argument '{}' is of type '{}', wanted int", name, v->type_name());
  return v->integer_value();
}

std::vector<Value> split_at(Interpreter& run, std::string_view text, std::string_view by, int64_t most, bool from_right) {
  require(!by.empty(), "split: an empty separator");
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t at = from_right ? text.rfind(by) : text.find(by);
    if (at == std::string_view::npos) break;
    parts.push_back(from_right ? text.substr(at + by.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + by.size());
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  std::vector<Value> out;
  for (const auto part : parts) out.push_back(run.text(std::string(part)));
  return out;
}

// Words between white space; after `most` cuts the rest stays whole.
std::vector<Value> split_words(Interpreter& run, std::string_view text, int64_t most) {
  std::vector<Value> out;
  const auto at_space = [&] { return !text.empty() && python_space(unicode::decode(text.data()).code); };
  for (;;) {
    while (at_space()) text.remove_prefix(unicode::decode(text.data()).bytes);
    if (text.empty()) return out;
    if (most >= 0 && static_cast<int64_t>(out.size()) >= most) {
      out.push_back(run.text(stripped(text, nullptr, false, true)));
      return out;
    }
    const char* from = text.data();
    while (!text.empty() && !at_space()) text.remove_prefix(unicode::decode(text.data()).bytes);
    out.push_back(run.text(std::string(from, text.data())));
  }
}

std::string replaced(std::string_view text, const std::string& what, const std::string& with, int64_t most) {
  std::string out;
  if (what.empty()) {  // between all characters
    const auto letters = characters(text);
    for (size_t i = 0; i <= letters.size(); ++i) {
      if (most < 0 || static_cast<int64_t>(i) < most) out += with;
      if (i < letters.size()) out += letters[i];
    }
    return out;
  }
  size_t from = 0;
  for (size_t at; most != 0 && (at = text.find(what, from)) != std::string_view::npos; from = at + what.size(), --most) out.append(text, from,
      at - from).append(with);
  return out.append(text, from);
}

std::vector<Value> lines(Interpreter& run, std::string_view text, bool keep) {
  std::vector<Value> out;
  while (!text.empty()) {
    size_t n = 0, end = 0;
    for (const char *at = text.data(), *stop = at + text.size(); at < stop;) {
      const auto c = unicode::decode(at);
      const bool breaks = (c.code >= 0x0A && c.code <= 0x0D) || (c.code >= 0x1C && c.code <= 0x1E) || c.code == 0x85 || c.code == 0x2028 || c.code == 0x2029;
      at += c.bytes;
      if (!breaks) {
        n = static_cast<size_t>(at - text.data());
        continue;
      }
      if (c.code == '\r' && at < stop && *at == '\n') ++at;
      end = static_cast<size_t>(at - text.data());
      break;
    }
    if (!end) end = n = text.size();
    out.push_back(run.text(std::string(text.substr(0, keep ? end : n))));
    text.remove_prefix(end);
  }
  return out;
}

bool starts_or_ends(const Text& self, const Arguments& a, bool starts, std::string_view method) {
  const auto one = [&](const Text& t) { return starts ? self.bytes.starts_with(t.bytes) : self.bytes.ends_with(t.bytes); };
  const Value* v = a.find(0, "prefix");
  require(v && a.positional.size() == 1, "{}: wanted one argument", method);
  if (const Sequence* s = v->as_sequence(); s && s->kind == Sequence::Kind::tuple) {
    for (const Value& item : s->items)
      if (item.as_text() && one(*item.as_text())) return true;
    return false;
  }
  return one(text_argument(a, 0, "prefix", method));
}

// Whether there is a character and all are of a kind.
template <class Is>
bool all_are(std::string_view text, Is&& is) {
  for (const auto c : characters(text))
    if (!is(unicode::decode(c.data()).code)) return false;
  return !text.empty();
}
bool cased(std::string_view text, Category wanted, Category other) {
  bool any = false;
  for (const auto c : characters(text)) {
    const Category k = category(unicode::decode(c.data()).code);
    if (k == other || k == Category::titlecase) return false;
    any |= k == wanted;
  }
  return any;
}

int64_t character_index(std::string_view text, size_t byte) { return byte == std::string_view::npos ? -1 : length(text.substr(0, byte)); }

Value text_method(Interpreter& run, const Text& self, const std::string& name, const Arguments& a) {
  const std::string& s = self.bytes;
  run.step(static_cast<int64_t>(s.size()) / 64 + 1);
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    a.check(name, 1, {"chars"});
    const Value* chars = a.find(0, "chars");
    const Text* set = chars && !chars->is_none() ? &text_argument(a, 0, "chars", name) : nullptr;
    return run.text(stripped(s, set, name != "rstrip", name != "lstrip"), self.safe);
  }
  if (name == "split" || name == "rsplit") {
    a.check(name, 2, {"sep", "maxsplit"});
    const Value* by = a.find(0, "sep");
    const int64_t most = integer_argument(a, 1, "maxsplit", -1);
    if (by && !by->is_none()) return Value::list(split_at(run, s, text_argument(a, 0, "sep", name).bytes, most, name == "rsplit"));
    require(name == "split" || most < 0, "rsplit: maxsplit without a separator is not supported");
    return Value::list(split_words(run, s, most));
  }
  if (name == "startswith" || name == "endswith") return Value::boolean(starts_or_ends(self, a, name == "startswith", name));
  if (name == "replace") {
    a.check(name, 3, {"count"});
    return run.text(replaced(s, text_argument(a, 0, "old", name).bytes, text_argument(a, 1, "new", name).bytes, integer_argument(a, 2, "count", -1)),
        self.safe);
  }
  if (name == "join") {
    a.check(name, 1);
    std::string out;
    bool first = true;
    require(!a.positional.empty(), "join: an argument is missing");
    for (const Value& item : run.iterate(a.positional[0])) {
      require(item.as_text(), "join: an element of type '{}', wanted str", item.type_name());
      if (!std::exchange(first, false)) out += s;
      out += item.as_text()->bytes;
    }
    return run.text(std::move(out));
  }
  if (name == "find" || name == "rfind" || name == "index" || name == "count") {
    a.check(name, 1);
    const std::string& what = text_argument(a, 0, "sub", name).bytes;
    if (name == "count") {
      int64_t n = what.empty() ? length(s) + 1 : 0;
      for (size_t at = 0; !what.empty() && (at = s.find(what, at)) != std::string::npos; at += what.size()) ++n;
      return Value::integer(n);
    }
    const int64_t at = character_index(s, name == "rfind" ? s.rfind(what) : s.find(what));
    require(at >= 0 || name != "index", "index: substring not found");
    return Value::integer(at);
  }
  if (name == "splitlines") {
    a.check(name, 1, {"keepends"});
    const Value* keep = a.find(0, "keepends");
    return Value::list(lines(run, s, keep && keep->truthy()));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    a.check(name, 1);
    const std::string& what = text_argument(a, 0, "prefix", name).bytes;
    if (name == "removeprefix") return run.text(s.starts_with(what) ? s.substr(what.size()) : s);
    return run.text(s.ends_with(what) && !what.empty() ? s.substr(0, s.size() - what.size()) : s);
  }
  a.check(name, 0);
  if (name == "lower") return run.text(mapped(s, to_lower), self.safe);
  if (name == "upper") return run.text(mapped(s, to_upper), self.safe);
  if (name == "title") return run.text(title(s), self.safe);
  if (name == "capitalize") return run.text(capitalize(s), self.safe);
  if (name == "isdigit" || name == "isdecimal" || name == "isnumeric") return Value::boolean(all_are(s, [](uint32_t c) {
      return category(c) == Category::decimal; }));
  if (name == "isalpha") return Value::boolean(all_are(s, letter));
  if (name == "isalnum") return Value::boolean(all_are(s, [](uint32_t c) { return letter(c) || category(c) == Category::decimal; }));
  if (name == "isspace") return Value::boolean(all_are(s, python_space));
  if (name == "isupper") return Value::boolean(cased(s, Category::uppercase, Category::lowercase));
  if (name == "islower") return Value::boolean(cased(s, Category::lowercase, Category::uppercase));
  fail("'str.{}' is not supported", name);
}

Value dict_method(Interpreter& run, const Dict& self, const std::string& name, const Arguments& a) {
  run.step(static_cast<int64_t>(self.items.size()) / 8 + 1);
  if (name == "get") {
    require(!a.positional.empty() && a.positional.size() <= 2 && a.named.empty(), "get: wanted a key and perhaps a default");
    const Value* found = self.find(a.positional[0]);
    return found ? *found : a.positional.size() > 1 ? a.positional[1] : Value();
  }
  a.check(name, 0);
  if (name == "copy") return Value::dict(self);
  std::vector<Value> out;
  for (const auto& [key, value] : self.items)
    out.push_back(name == "keys" ? key : name == "values" ? value : Value::list({key, value}, Sequence::Kind::tuple));
  run.step(static_cast<int64_t>(out.size()));
  return Value::list(std::move(out));
}

Value sequence_method(Interpreter& run, const Sequence& self, const std::string& name, const Arguments& a) {
  run.step(static_cast<int64_t>(self.items.size()) + 1);
  if (name == "copy") return a.check(name, 0), Value::list(self.items);
  a.check(name, 1);
  require(!a.positional.empty(), "{}: an argument is missing", name);
  int64_t n = 0;
  for (size_t i = 0; i < self.items.size(); ++i)
    if (equal(self.items[i], a.positional[0])) {
      if (name == "index") return Value::integer(static_cast<int64_t>(i));
      ++n;
    }
  require(name == "count", "index: {} is not in the list", a.positional[0].repr());
  return Value::integer(n);
}

Value loop_method(Interpreter& run, Loop& loop, const std::string& name, const Arguments& a) {
  if (name == "cycle") {
    require(!a.positional.empty(), "loop.cycle: no items");
    return a.positional[static_cast<size_t>(loop.index0) % a.positional.size()];
  }
  bool same = loop.changed_before && loop.last_changed.size() == a.positional.size();
  for (size_t i = 0; same && i < a.positional.size(); ++i) same = equal(loop.last_changed[i], a.positional[i]);
  run.step();
  loop.changed_before = true;
  loop.last_changed = a.positional;
  return Value::boolean(!same);
}

}  // namespace

MethodKind method_kind(const Value& self, std::string_view name) {
  using enum MethodKind;
  if (name.starts_with("__")) return unsafe;
  if (self.as_text()) {
    if (one_of(name, {"strip", "lstrip", "rstrip", "split", "rsplit", "startswith", "endswith", "replace", "join", "find", "rfind", "index", "count",
        "splitlines",
                      "removeprefix", "removesuffix", "lower", "upper", "title", "capitalize", "isdigit", "isdecimal", "isnumeric", "isalpha",
                          "isalnum", "isspace",
                      "isupper", "islower"}))
      return known;
    return one_of(name, {"casefold", "center", "encode", "expandtabs", "format", "format_map", "isascii", "isidentifier", "isprintable", "istitle", "ljust",
                         "maketrans", "partition", "rindex", "rjust", "rpartition", "swapcase", "translate", "zfill"})
               ? unsupported
               : none;
  }
  if (self.as_dict()) {
    if (one_of(name, {"get", "items", "keys", "values", "copy"})) return known;
    if (name == "fromkeys") return unsupported;
    return one_of(name, {"clear", "pop", "popitem", "setdefault", "update"}) ? unsafe : none;
  }
  if (const Sequence* s = self.as_sequence()) {
    if (s->kind == Sequence::Kind::generator) return one_of(name, {"send", "throw", "close"}) ? unsafe : none;
    if (one_of(name, {"count", "index"}) || (name == "copy" && s->kind == Sequence::Kind::list)) return known;
    return s->kind == Sequence::Kind::list && one_of(name, {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"}) ? unsafe : none;
  }
  if (self.as_loop() && one_of(name, {"cycle", "changed"})) return known;
  return none;
}

Value Interpreter::call_method(const Value& self, const std::string& name, const CallArguments& arguments) {
  if (const Text* t = self.as_text()) return text_method(*this, *t, name, arguments);
  if (const Dict* d = self.as_dict()) return dict_method(*this, *d, name, arguments);
  if (const Sequence* s = self.as_sequence()) return sequence_method(*this, *s, name, arguments);
  PONTE_ASSERT(self.as_loop());
  return loop_method(*this, *self.as_loop(), name, arguments);
}

}  // namespace ponte::jinja
