// Filters and tests, one small function each, and the tables that name them; more than 400 lines because there are eighty of them.
// Source: jinja2.filters, jinja2.tests; tojson as transformers redefines it.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/errors.h"
#include "text/jinja_interpreter.h"
#include "text/unicode.h"

namespace ponte::jinja {
namespace {

using Arguments = CallArguments;
using FilterFunction = Value (*)(Interpreter&, const Value&, const Arguments&);
using TestFunction = bool (*)(Interpreter&, const Value&, const Arguments&);

void require_defined(const Value& v) {
  if (const Undefined* u = v.as_undefined()) fail("{}", u->why);
}
Value argument_or(const Arguments& a, size_t i, std::string_view name, Value fallback) {
  const Value* v = a.find(i, name);
  return v ? *v : std::move(fallback);
}
std::string text_or(const Arguments& a, size_t i, std::string_view name, std::string_view fallback) {
  const Value* v = a.find(i, name);
  return v ? v->str() : std::string(fallback);
}
int64_t integer_or(const Arguments& a, size_t i, std::string_view name, int64_t fallback) {
  const Value* v = a.find(i, name);
  if (!v) return fallback;
  require(v->is_number() && !v->is_double(), "argument '{}' is of type '{}', wanted int", name, v->type_name());
  return v->integer_value();
}
bool truth_or(const Arguments& a, size_t i, std::string_view name, bool fallback) {
  const Value* v = a.find(i, name);
  return v ? v->truthy() : fallback;
}
Value method(Interpreter& run, const Value& v, const char* name, const Arguments& a = {}) { return run.call_method(run.text(v.str()), name, a); }

int64_t size_of(const Value& v) {
  if (v.as_undefined()) return 0;
  if (const Text* t = v.as_text()) return length(t->bytes);
  if (const Dict* d = v.as_dict()) return static_cast<int64_t>(d->items.size());
  const Sequence* s = v.as_sequence();
  require(s && s->kind != Sequence::Kind::generator, "object of type '{}' has no length", v.type_name());
  return static_cast<int64_t>(s->items.size());
}

// item.a.b or item[0], as filters' `attribute` argument names it.
Value attribute_of(Interpreter& run, Value item, const Value& path) {
  if (!path.as_text()) return run.get_item(item, path);
  const std::string& names = path.as_text()->bytes;
  for (size_t from = 0; from <= names.size();) {
    const size_t dot = std::min(names.find('.', from), names.size());
    const std::string part = names.substr(from, dot - from);
    const bool number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    item = run.get_item(item, number ? Value::integer(std::stoll(part)) : Value::text(part));
    from = dot + 1;
  }
  return item;
}

Value ignoring_case(const Value& v, bool case_sensitive, Interpreter& run) { return v.as_text() && !case_sensitive ? method(run, v, "lower") : v; }

Value json(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("tojson", 4, {"ensure_ascii", "indent", "separators", "sort_keys"});
  require_defined(v);
  JsonStyle style;
  style.ascii = truth_or(a, 0, "ensure_ascii", false);
  if (const Value indent = argument_or(a, 1, "indent", Value()); !indent.is_none()) {
    style.indent = std::clamp<int64_t>(integer_or(a, 1, "indent", 0), 0, 100);
    style.item_separator.assign(1, ',');
  }
  if (const Value separators = argument_or(a, 2, "separators", Value()); !separators.is_none()) {
    const auto both = run.iterate(separators);
    require(both.size() == 2 && both[0].as_text() && both[1].as_text(), "tojson: separators, wanted two texts");
    style.item_separator = both[0].str(), style.key_separator = both[1].str();
  }
  style.sort_keys = truth_or(a, 3, "sort_keys", false);
  return run.text(to_json(v, style));
}

Value default_(Interpreter&, const Value& v, const Arguments& a) {
  a.check("default", 2, {"default_value", "boolean"});
  const bool replace = v.as_undefined() || (truth_or(a, 1, "boolean", false) && !v.truthy());
  return replace ? argument_or(a, 0, "default_value", Value::text("")) : v;
}

Value join(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("join", 2, {"d", "attribute"});
  const std::string between = text_or(a, 0, "d", "");
  const Value* attribute = a.find(1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& item : run.iterate(v)) {
    if (!std::exchange(first, false)) out += between;
    out += (attribute ? attribute_of(run, item, *attribute) : item).str();
  }
  return run.text(std::move(out));
}

Value trim(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("trim", 1, {"chars"});
  return method(run, v, "strip", a);
}

Value items(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("items", 0);
  if (v.as_undefined()) return Value::list({}, Sequence::Kind::generator);
  require(v.as_dict(), "items: a value of type '{}', wanted a mapping", v.type_name());
  return run.call_method(v, "items", {});
}

// Sorted by key function `key`, which gives a comparable value of each item.
template <class Key>
std::vector<Value> sorted(Interpreter& run, std::vector<Value> values, bool reverse, Key&& key) {
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& v : values) {
    Value k = key(v);
    keyed.emplace_back(std::move(k), std::move(v));
  }
  run.step(static_cast<int64_t>(keyed.size()) * 16);
  // Python sorts a reversed list stably: equal items keep their order.
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) { return reverse ? compare(b.first, a.first) < 0 : compare(a.first,
      b.first) < 0; });
  values.clear();
  for (auto& [k, v] : keyed) values.push_back(std::move(v));
  return values;
}

Value dictsort(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("dictsort", 3, {"case_sensitive", "by", "reverse"});
  require_defined(v);
  require(v.as_dict(), "dictsort: a value of type '{}', wanted a dict", v.type_name());
  const bool sensitive = truth_or(a, 0, "case_sensitive", false), reverse = truth_or(a, 2, "reverse", false);
  const std::string by = text_or(a, 1, "by", "key");
  require(by == "key" || by == "value", "dictsort: by '{}', wanted 'key' or 'value'", by);
  return Value::list(sorted(run, run.call_method(v, "items", {}).as_sequence()->items, reverse,
                            [&](const Value& pair) { return ignoring_case(pair.as_sequence()->items[by == "key" ? 0 : 1], sensitive, run); }));
}

Value sort(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("sort", 3, {"reverse", "case_sensitive", "attribute"});
  const bool sensitive = truth_or(a, 1, "case_sensitive", false);
  const Value* attribute = a.find(2, "attribute");
  return Value::list(sorted(run, run.iterate(v), truth_or(a, 0, "reverse", false),
                            [&](const Value& item) { return ignoring_case(attribute ? attribute_of(run, item, *attribute) : item, sensitive, run); }));
}

Value unique(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("unique", 2, {"case_sensitive", "attribute"});
  const Value* attribute = a.find(1, "attribute");
  std::vector<Value> seen, out;
  for (const Value& item : run.iterate(v)) {
    const Value key = ignoring_case(attribute ? attribute_of(run, item, *attribute) : item, truth_or(a, 0, "case_sensitive", false), run);
    run.step(static_cast<int64_t>(seen.size()));
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& s) { return equal(s, key); })) continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return Value::list(std::move(out), Sequence::Kind::generator);
}

Value extreme(Interpreter& run, const Value& v, const Arguments& a, int sign, const char* name) {
  a.check(name, 2, {"case_sensitive", "attribute"});
  const Value* attribute = a.find(1, "attribute");
  const auto key = [&](const Value& item) {
    return ignoring_case(attribute ? attribute_of(run, item, *attribute) : item, truth_or(a, 0, "case_sensitive", false), run);
  };
  const std::vector<Value> values = run.iterate(v);
  if (values.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const Value* best = &values[0];
  for (const Value& item : values)
    if (compare(key(item), key(*best)) * sign > 0) best = &item;
  return *best;
}

Value sum(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("sum", 2, {"attribute", "start"});
  Value out = argument_or(a, 1, "start", Value::integer(0));
  const Value* attribute = a.find(0, "attribute");
  for (const Value& item : run.iterate(v)) {
    const Value term = attribute && !attribute->is_none() ? attribute_of(run, item, *attribute) : item;
    require(term.is_number() && out.is_number(), "sum: an element of type '{}'", term.type_name());
    if (term.is_double() || out.is_double()) out = Value(out.number_value() + term.number_value());
    else {
      int64_t total;
      require(!__builtin_add_overflow(out.integer_value(), term.integer_value(), &total), "sum: overflows 64 bits");
      out = Value::integer(total);
    }
  }
  return out;
}

Value map(Interpreter& run, const Value& v, const Arguments& a) {
  std::vector<Value> out;
  Arguments rest = a;
  const Value* attribute = a.positional.empty() ? a.find(9, "attribute") : nullptr;
  if (attribute) a.check("map", 0, {"attribute", "default"});
  else {
    require(!a.positional.empty(), "map: wanted a filter or an attribute");
    rest.positional.erase(rest.positional.begin());
  }
  for (const Value& item : v.truthy() ? run.iterate(v) : std::vector<Value>()) {
    if (!attribute) {
      out.push_back(run.call_filter(a.positional[0].str(), item, rest));
      continue;
    }
    Value found = attribute_of(run, item, *attribute);
    const Value* fallback = a.find(9, "default");
    out.push_back(found.as_undefined() && fallback ? *fallback : std::move(found));
  }
  return Value::list(std::move(out), Sequence::Kind::generator);
}

// select, reject, selectattr and rejectattr: items for which a test (truth when none is named) holds or not.
Value chosen(Interpreter& run, const Value& v, const Arguments& a, bool wanted, bool by_attribute) {
  Arguments rest = a;
  Value attribute;
  if (by_attribute) {
    require(!rest.positional.empty(), "wanted an attribute");
    attribute = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  std::string test;
  if (!rest.positional.empty()) {
    test = rest.positional[0].str();
    rest.positional.erase(rest.positional.begin());
  }
  std::vector<Value> out;
  for (const Value& item : v.truthy() ? run.iterate(v) : std::vector<Value>()) {  // of none: nothing
    const Value value = by_attribute ? attribute_of(run, item, attribute) : item;
    if ((test.empty() ? value.truthy() : run.call_test(test, value, rest)) == wanted) out.push_back(item);
  }
  return Value::list(std::move(out), Sequence::Kind::generator);
}

Value indent(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("indent", 3, {"width", "first", "blank"});
  const Value width = argument_or(a, 0, "width", Value::integer(4));
  require(width.as_text() || (width.is_integer() && width.integer_value() < 1000), "indent: width {}", width.repr());
  const std::string pad = width.as_text() ? width.str() : std::string(static_cast<size_t>(std::max<int64_t>(width.integer_value(), 0)), ' ');
  const bool first = truth_or(a, 1, "first", false), blank = truth_or(a, 2, "blank", false);
  std::string out;
  const std::string text = v.str() + "\n";
  size_t from = 0;
  for (size_t line = 0; from < text.size(); ++line) {
    const size_t end = text.find('\n', from);
    if (line) out += '\n';
    if (line ? (blank || end > from) : first) out += pad;
    out.append(text, from, end - from);
    from = end + 1;
  }
  return run.text(std::move(out));
}

Value replace(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("replace", 3, {"old", "new", "count"});
  Arguments plain;
  plain.positional = {run.text(text_or(a, 0, "old", "")), run.text(text_or(a, 1, "new", ""))};
  if (const Value* count = a.find(2, "count"); count && !count->is_none()) plain.positional.push_back(*count);
  return method(run, v, "replace", plain);
}

Value integer(Interpreter&, const Value& v, const Arguments& a) {
  a.check("int", 2, {"default", "base"});
  require(integer_or(a, 1, "base", 10) == 10, "int: only base 10 is supported");
  const Value fallback = argument_or(a, 0, "default", Value::integer(0));
  if (v.is_double()) {
    const double d = std::trunc(v.number_value());
    return std::abs(d) < 9e18 ? Value::integer(static_cast<int64_t>(d)) : fallback;
  }
  if (v.is_number()) return Value::integer(v.integer_value());
  if (!v.as_text()) return fallback;
  const std::string& s = v.as_text()->bytes;
  try {
    size_t used;
    const int64_t whole = std::stoll(s, &used);
    if (s.find_first_not_of(" \t\r\n", used) == std::string::npos) return Value::integer(whole);
    const double d = std::stod(s, &used);
    if (s.find_first_not_of(" \t\r\n", used) == std::string::npos && std::abs(d) < 9e18) return Value::integer(static_cast<int64_t>(d));
  } catch (const std::exception&) {
  }
  return fallback;
}

Value real(Interpreter&, const Value& v, const Arguments& a) {
  a.check("float", 1, {"default"});
  if (v.is_number()) return Value(v.number_value());
  if (v.as_text()) {
    try {
      size_t used;
      const double d = std::stod(v.as_text()->bytes, &used);
      if (v.as_text()->bytes.find_first_not_of(" \t\r\n", used) == std::string::npos) return Value(d);
    } catch (const std::exception&) {
    }
  }
  return argument_or(a, 0, "default", Value(0.0));
}

Value round(Interpreter&, const Value& v, const Arguments& a) {
  a.check("round", 2, {"precision", "method"});
  require(v.is_number(), "round: a value of type '{}'", v.type_name());
  const int64_t precision = std::clamp<int64_t>(integer_or(a, 0, "precision", 0), -300, 300);
  const std::string method = text_or(a, 1, "method", "common");
  const double scale = std::pow(10.0, static_cast<double>(precision)), x = v.number_value() * scale;
  require(method == "common" || method == "ceil" || method == "floor", "round: method '{}'", method);
  if (!v.is_double() && method == "common" && precision >= 0) return v;
  return Value((method == "common" ? std::nearbyint(x) : method == "ceil" ? std::ceil(x) : std::floor(x)) / scale);
}

Value batch_of(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("batch", 2, {"linecount", "fill_with"});
  const int64_t n = integer_or(a, 0, "linecount", 0);
  require(n > 0 && n <= 100'000, "batch: lines of {} items", n);
  std::vector<Value> out, line;
  for (Value& item : run.iterate(v)) {
    if (static_cast<int64_t>(line.size()) == n) out.push_back(Value::list(std::exchange(line, {})));
    line.push_back(std::move(item));
  }
  const Value* fill = a.find(1, "fill_with");
  if (!line.empty() && fill && !fill->is_none()) run.step(n), line.resize(static_cast<size_t>(n), *fill);
  if (!line.empty()) out.push_back(Value::list(std::move(line)));
  return Value::list(std::move(out), Sequence::Kind::generator);
}

Value reversed(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("reverse", 0);
  require_defined(v);
  std::vector<Value> values = run.iterate(v);
  std::reverse(values.begin(), values.end());
  if (!v.as_text()) return Value::list(std::move(values), Sequence::Kind::generator);
  std::string out;
  for (const Value& c : values) out += c.str();
  return run.text(std::move(out));
}

Value first_or_last(Interpreter& run, const Value& v, const Arguments& a, bool last) {
  a.check(last ? "last" : "first", 0);
  const std::vector<Value> values = run.iterate(v);
  if (values.empty()) return Value::undefined(last ? "No last item, sequence was empty." : "No first item, sequence was empty.");
  return last ? values.back() : values.front();
}

std::string html_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    constexpr std::string_view kSpecial = "&<>\"'";
    constexpr const char* kNames[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    const size_t k = kSpecial.find(c);
    if (k == std::string_view::npos) out += c;
    else out += kNames[k];
  }
  return out;
}

Value escape(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("escape", 0);
  return v.as_text() && v.as_text()->safe ? v : run.text(html_escaped(v.str()), true);
}

Value absolute(Interpreter&, const Value& v, const Arguments& a) {
  a.check("abs", 0);
  require(v.is_number() && (v.is_double() || v.integer_value() != INT64_MIN), "abs: a value of type '{}'", v.type_name());
  return v.is_double() ? Value(std::abs(v.number_value())) : Value::integer(std::abs(v.integer_value()));
}

Value named_attribute(Interpreter& run, const Value& v, const Arguments& a) {
  require(a.positional.size() == 1 && a.positional[0].as_text(), "attr: wanted a name");
  if (v.as_dict()) {  // attributes only, not keys
    const bool known = method_kind(v, a.positional[0].as_text()->bytes) != MethodKind::none;
    if (!known) return Value::undefined("no such attribute");
  }
  return run.get_attribute(v, a.positional[0].as_text()->bytes);
}

Value word_count(Interpreter& run, const Value& v, const Arguments& a) {
  a.check("wordcount", 0);
  return Value::integer(size_of(method(run, v, "split")));
}

template <class T>
struct Named {
  std::string_view name;
  T function;
};

constexpr Named<FilterFunction> kFilters[] = {
    {"abs", absolute},
    {"attr", named_attribute},
    {"batch", batch_of},
    {"capitalize", [](Interpreter& run, const Value& v, const Arguments& a) { return a.check("capitalize", 0), method(run, v, "capitalize"); }},
    {"count", [](Interpreter&, const Value& v, const Arguments& a) { return a.check("count", 0), Value::integer(size_of(v)); }},
    {"d", default_},
    {"default", default_},
    {"dictsort", dictsort},
    {"e", escape},
    {"escape", escape},
    {"first", [](Interpreter& run, const Value& v, const Arguments& a) { return first_or_last(run, v, a, false); }},
    {"float", real},
    {"indent", indent},
    {"int", integer},
    {"items", items},
    {"join", join},
    {"last", [](Interpreter& run, const Value& v, const Arguments& a) { return first_or_last(run, v, a, true); }},
    {"length", [](Interpreter&, const Value& v, const Arguments& a) { return a.check("length", 0), Value::integer(size_of(v)); }},
    {"list", [](Interpreter& run, const Value& v, const Arguments& a) { return a.check("list", 0), Value::list(run.iterate(v)); }},
    {"lower", [](Interpreter& run, const Value& v, const Arguments& a) { return a.check("lower", 0), method(run, v, "lower"); }},
    {"map", map},
    {"max", [](Interpreter& run, const Value& v, const Arguments& a) { return extreme(run, v, a, 1, "max"); }},
    {"min", [](Interpreter& run, const Value& v, const Arguments& a) { return extreme(run, v, a, -1, "min"); }},
    {"reject", [](Interpreter& run, const Value& v, const Arguments& a) { return chosen(run, v, a, false, false); }},
    {"rejectattr", [](Interpreter& run, const Value& v, const Arguments& a) { return chosen(run, v, a, false, true); }},
    {"replace", replace},
    {"reverse", reversed},
    {"round", round},
    {"safe", [](Interpreter& run, const Value& v, const Arguments& a) { return a.check("safe", 0), run.text(v.str(), true); }},
    {"select", [](Interpreter& run, const Value& v, const Arguments& a) { return chosen(run, v, a, true, false); }},
    {"selectattr", [](Interpreter& run, const Value& v, const Arguments& a) { return chosen(run, v, a, true, true); }},
    {"sort", sort},
    {"string", [](Interpreter& run, const Value& v, const Arguments& a) { return a.check("string", 0), v.as_text() ? v : run.text(v.str()); }},
    {"sum", sum},
    {"title", [](Interpreter& run, const Value& v, const Arguments& a) { return a.check("title", 0), method(run, v, "title"); }},
    {"tojson", json},
    {"trim", trim},
    {"unique", unique},
    {"upper", [](Interpreter& run, const Value& v, const Arguments& a) { return a.check("upper", 0), method(run, v, "upper"); }},
    {"wordcount", word_count},
};

const Value& other(const Arguments& a) {
  require(a.positional.size() == 1, "a test that compares wants one argument");
  return a.positional[0];
}
bool odd(const Value& v) {
  require(v.is_number() && !v.is_double(), "odd, even: a value of type '{}', wanted int", v.type_name());
  return v.integer_value() % 2 != 0;
}
bool iterable(const Value& v) { return v.as_text() || v.as_sequence() || v.as_dict() || v.as_undefined(); }

constexpr TestFunction kEqual = [](Interpreter&, const Value& v, const Arguments& a) { return equal(v, other(a)); };
constexpr TestFunction kDiffers = [](Interpreter&, const Value& v, const Arguments& a) { return !equal(v, other(a)); };
constexpr TestFunction kLess = [](Interpreter&, const Value& v, const Arguments& a) { return compare(v, other(a)) < 0; };
constexpr TestFunction kAtMost = [](Interpreter&, const Value& v, const Arguments& a) { return compare(v, other(a)) <= 0; };
constexpr TestFunction kGreater = [](Interpreter&, const Value& v, const Arguments& a) { return compare(v, other(a)) > 0; };
constexpr TestFunction kAtLeast = [](Interpreter&, const Value& v, const Arguments& a) { return compare(v, other(a)) >= 0; };

constexpr Named<TestFunction> kTests[] = {
    {"boolean", [](Interpreter&, const Value& v, const Arguments&) { return v.is_bool(); }},
    {"callable", [](Interpreter&, const Value& v, const Arguments&) { return v.is_callable(); }},
    {"defined", [](Interpreter&, const Value& v, const Arguments&) { return !v.as_undefined(); }},
    {"divisibleby",
     [](Interpreter&, const Value& v, const Arguments& a) {
       require(v.is_number() && !v.is_double() && other(a).is_number() && !other(a).is_double() && other(a).integer_value() != 0,
           "divisibleby: wanted two ints");
       return other(a).integer_value() == -1 || v.integer_value() % other(a).integer_value() == 0;
     }},
    {"eq", kEqual}, {"equalto", kEqual}, {"ne", kDiffers}, {"lt", kLess}, {"lessthan", kLess}, {"le", kAtMost}, {"gt", kGreater}, {"greaterthan", kGreater},
    {"ge", kAtLeast},
    {"even", [](Interpreter&, const Value& v, const Arguments&) { return !odd(v); }},
    {"odd", [](Interpreter&, const Value& v, const Arguments&) { return odd(v); }},
    {"false", [](Interpreter&, const Value& v, const Arguments&) { return v.is_bool() && !v.truthy(); }},
    {"true", [](Interpreter&, const Value& v, const Arguments&) { return v.is_bool() && v.truthy(); }},
    {"float", [](Interpreter&, const Value& v, const Arguments&) { return v.is_double(); }},
    {"in", [](Interpreter& run, const Value& v, const Arguments& a) { return run.contains(v, other(a)); }},
    {"integer", [](Interpreter&, const Value& v, const Arguments&) { return v.is_integer(); }},
    {"iterable", [](Interpreter&, const Value& v, const Arguments&) { return iterable(v); }},
    {"lower", [](Interpreter& run, const Value& v, const Arguments&) { return method(run, v, "islower").truthy(); }},
    {"upper", [](Interpreter& run, const Value& v, const Arguments&) { return method(run, v, "isupper").truthy(); }},
    {"mapping", [](Interpreter&, const Value& v, const Arguments&) { return v.as_dict() != nullptr; }},
    {"none", [](Interpreter&, const Value& v, const Arguments&) { return v.is_none(); }},
    {"number", [](Interpreter&, const Value& v, const Arguments&) { return v.is_number(); }},
    {"sameas",
     [](Interpreter&, const Value& v, const Arguments& a) {
       const Value& b = other(a);
       require((v.is_bool() || v.is_none()) || (b.is_bool() || b.is_none()), "sameas: only true, false and none have an identity here");
       return v.is_bool() == b.is_bool() && v.is_none() == b.is_none() && equal(v, b);
     }},
    {"sequence", [](Interpreter&, const Value& v, const Arguments&) { return iterable(v) && !(v.as_sequence() &&
        v.as_sequence()->kind == Sequence::Kind::generator); }},
    {"string", [](Interpreter&, const Value& v, const Arguments&) { return v.as_text() != nullptr; }},
    {"undefined", [](Interpreter&, const Value& v, const Arguments&) { return v.as_undefined() != nullptr; }},
};

template <class T, size_t N>
T lookup(const Named<T> (&table)[N], const std::string& name, const char* what) {
  for (const auto& entry : table)
    if (entry.name == name) return entry.function;
  fail("no {} named '{}'", what, name);
}

}  // namespace

Value Interpreter::call_filter(const std::string& name, const Value& of, const CallArguments& arguments) {
  step();
  return lookup(kFilters, name, "filter")(*this, of, arguments);
}

bool Interpreter::call_test(const std::string& name, const Value& of, const CallArguments& arguments) {
  step();
  return lookup(kTests, name, "test")(*this, of, arguments);
}

}  // namespace ponte::jinja
