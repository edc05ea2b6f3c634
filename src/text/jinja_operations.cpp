// What operators, attributes, subscripts and slices mean: Python's semantics over Value.
#include "text/jinja_interpreter.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "base/errors.h"

namespace ponte::jinja {

// Python's slice of a text, list or tuple.
Value Interpreter::eval_slice(const Expr& e) {
  const Value of = eval(*e.children[0]);
  std::vector<std::string_view> letters;
  const Text* string = of.as_text();
  const Sequence* sequence = of.as_sequence();
  if (string) letters = characters(string->bytes);
  if (of.as_undefined()) fail("{}", of.as_undefined()->why);
  require(string || sequence, "a value of type '{}' cannot be sliced", of.type_name());
  const auto n = static_cast<int64_t>(string ? letters.size() : sequence->items.size());
  step(n);
  const auto part = [&](size_t i) -> const Value { return e.children[i] ? eval(*e.children[i]) : Value(); };
  const Value start = part(1), stop = part(2), stride = part(3);
  for (const Value* v : {&start, &stop, &stride}) require(v->is_none() || (v->is_number() && !v->is_double()), "a slice index of type '{}'", v->type_name());
  const int64_t by = stride.is_none() ? 1 : stride.integer_value();
  require(by != 0, "a slice step of 0");
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? n : n - 1;
  const auto bound = [&](const Value& v, int64_t fallback) {
    if (v.is_none()) return fallback;
    const int64_t i = v.integer_value();
    return std::clamp(i < 0 ? std::max(i, -n - 1) + n : i, low, high);
  };
  const int64_t from = bound(start, by > 0 ? low : high), to = bound(stop, by > 0 ? high : low);
  std::string chars;
  std::vector<Value> items;
  for (int64_t i = from; by > 0 ? i < to : i > to; i = by > 0 ? (by > to - i ? to : i + by) : (by < to - i ? to : i + by)) {
    if (string) chars += letters[static_cast<size_t>(i)];
    else items.push_back(sequence->items[static_cast<size_t>(i)]);
  }
  return string ? text(std::move(chars), string->safe) : Value::list(std::move(items), sequence->kind);
}

Value Interpreter::get_attribute(const Value& of, const std::string& name) {
  if (const Undefined* u = of.as_undefined()) fail("{}", u->why);
  if (const Namespace* n = of.as_namespace()) {
    const Value* found = n->variables.find(name);
    return found ? *found : Value::undefined(format("'namespace object' has no attribute '{}'", name));
  }
  if (const Loop* loop = of.as_loop()) {
    const auto n = static_cast<int64_t>(loop->items->items.size()), i = loop->index0;
    const auto item = [&](int64_t at, const char* why) { return at >= 0 && at < n ? loop->items->items[static_cast<size_t>(at)] : Value::undefined(why); };
    if (name == "index0") return Value::integer(i);
    if (name == "index") return Value::integer(i + 1);
    if (name == "revindex0") return Value::integer(n - 1 - i);
    if (name == "revindex") return Value::integer(n - i);
    if (name == "first") return Value::boolean(i == 0);
    if (name == "last") return Value::boolean(i == n - 1);
    if (name == "length") return Value::integer(n);
    if (name == "depth0") return Value::integer(loop->depth0);
    if (name == "depth") return Value::integer(loop->depth0 + 1);
    if (name == "previtem") return item(i - 1, "there is no previous item");
    if (name == "nextitem") return item(i + 1, "there is no next item");
  }
  switch (method_kind(of, name)) {
    case MethodKind::known: return Value(std::make_shared<const Method>(Method{std::make_shared<const Value>(of), name}));
    case MethodKind::unsupported: fail("'{}.{}' is not supported", of.type_name(), name);
    case MethodKind::unsafe: return Value::undefined(format("'{}.{}' is not safe to use in a template", of.type_name(), name));
    case MethodKind::none: break;
  }
  if (const Dict* dict = of.as_dict())
    if (const Value* found = dict->find(name)) return *found;
  return Value::undefined(format("'{} object' has no attribute '{}'", of.type_name(), name));
}

Value Interpreter::get_item(const Value& of, const Value& key) {
  if (const Undefined* u = of.as_undefined()) fail("{}", u->why);
  if (const Dict* dict = of.as_dict()) {
    step(static_cast<int64_t>(dict->items.size()) / 8);
    if (const Value* found = dict->find(key)) return *found;
  }
  const bool whole = key.is_number() && !key.is_double();
  if (const Sequence* s = of.as_sequence(); s && whole && s->kind != Sequence::Kind::generator) {
    const auto n = static_cast<int64_t>(s->items.size());
    const int64_t i = key.integer_value() < 0 ? key.integer_value() + n : key.integer_value();
    if (i >= 0 && i < n) return s->items[static_cast<size_t>(i)];
  }
  if (const Text* t = of.as_text(); t && whole) {
    const auto letters = characters(t->bytes);
    step(static_cast<int64_t>(letters.size()));
    const auto n = static_cast<int64_t>(letters.size());
    const int64_t i = key.integer_value() < 0 ? key.integer_value() + n : key.integer_value();
    if (i >= 0 && i < n) return text(std::string(letters[static_cast<size_t>(i)]));
  }
  if (const Text* name = key.as_text()) return get_attribute(of, name->bytes);
  return Value::undefined(format("'{} object' has no element {}", of.type_name(), key.repr()));
}

std::vector<Value> Interpreter::iterate(const Value& of) {
  std::vector<Value> out;
  if (const Sequence* s = of.as_sequence()) out = s->items;
  else if (const Dict* dict = of.as_dict())
    for (const auto& item : dict->items) out.push_back(item.first);
  else if (const Text* t = of.as_text())
    for (const auto c : characters(t->bytes)) out.push_back(Value::text(std::string(c)));
  else require(of.as_undefined(), "a value of type '{}' cannot be iterated over", of.type_name());
  step(static_cast<int64_t>(out.size()));
  return out;
}

bool Interpreter::contains(const Value& needle, const Value& in) {
  if (const Text* t = in.as_text()) {
    if (needle.as_undefined()) fail("{}", needle.as_undefined()->why);
    require(needle.as_text(), "'in <str>' wants a str on its left, found '{}'", needle.type_name());
    step(static_cast<int64_t>(t->bytes.size()) / 64);
    return t->bytes.find(needle.as_text()->bytes) != std::string::npos;
  }
  if (const Dict* dict = in.as_dict()) {
    step(static_cast<int64_t>(dict->items.size()) / 8);
    return dict->find(needle) != nullptr;
  }
  for (const Value& item : iterate(in))
    if (equal(item, needle)) return true;
  return false;
}

namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&#34;";
    else if (c == '\'') out += "&#39;";
    else out += c;
  return out;
}

Value repeated(Interpreter& interpreter, const Value& what, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (const Text* t = what.as_text()) {
    interpreter.step(checked_multiply(static_cast<int64_t>(t->bytes.size()), times, "a repeated text") / 16);
    std::string out;
    for (int64_t i = 0; i < times; ++i) out += t->bytes;
    return interpreter.text(std::move(out), t->safe);
  }
  const Sequence& s = *what.as_sequence();
  interpreter.step(checked_multiply(static_cast<int64_t>(s.items.size()), times, "a repeated list"));
  std::vector<Value> out;
  for (int64_t i = 0; i < times; ++i) out.insert(out.end(), s.items.begin(), s.items.end());
  return Value::list(std::move(out), s.kind);
}

Value arithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t out = 0;
  if (op == "+") return Value::integer(checked_add(a, b, "a sum"));
  if (op == "-") {
    require(!__builtin_sub_overflow(a, b, &out), "a difference overflows 64 bits");
    return Value::integer(out);
  }
  if (op == "*") return Value::integer(checked_multiply(a, b, "a product"));
  if (op == "**") {
    if (b < 0) return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
    require(b <= 64 || (a >= -1 && a <= 1), "a power overflows 64 bits");
    int64_t result = 1;
    for (int64_t i = 0; i < (b > 64 ? b % 2 + 2 : b); ++i) result = checked_multiply(result, a, "a power");
    return Value::integer(result);
  }
  require(b != 0, "division by zero");
  if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
  require(!(a == INT64_MIN && b == -1), "a quotient overflows 64 bits");
  const int64_t quotient = a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
  return Value::integer(op == "//" ? quotient : a - quotient * b);
}

Value arithmetic(const std::string& op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  require(b != 0, "division by zero");
  if (op == "/") return Value(a / b);
  const double quotient = std::floor(a / b);
  return Value(op == "//" ? quotient : a - quotient * b);
}

}  // namespace

Value Interpreter::add(const Value& a, const Value& b) {
  const Text *s = a.as_text(), *t = b.as_text();
  if (s && t) {
    if (s->safe == t->safe) return text(s->bytes + t->bytes, s->safe);
    return text((s->safe ? s->bytes : escaped(s->bytes)) + (t->safe ? t->bytes : escaped(t->bytes)), true);
  }
  const Sequence *x = a.as_sequence(), *y = b.as_sequence();
  if (x && y && x->kind == y->kind && x->kind != Sequence::Kind::generator) {
    step(static_cast<int64_t>(x->items.size() + y->items.size()));
    std::vector<Value> items = x->items;
    items.insert(items.end(), y->items.begin(), y->items.end());
    return Value::list(std::move(items), x->kind);
  }
  if (s || x) fail("cannot add a value of type '{}' to one of type '{}'", b.type_name(), a.type_name());
  fail("no '+' for '{}' and '{}'", a.type_name(), b.type_name());
}

Value Interpreter::binary(const std::string& op, const Value& a, const Value& b) {
  for (const Value* v : {&a, &b})
    if (v->as_undefined()) fail("{}", v->as_undefined()->why);
  if (a.is_number() && b.is_number())
    return a.is_double() || b.is_double() ? arithmetic(op, a.number_value(), b.number_value()) : arithmetic(op, a.integer_value(), b.integer_value());
  if (op == "+") return add(a, b);
  const auto repeatable = [](const Value& v) { return v.as_text() || (v.as_sequence() && v.as_sequence()->kind != Sequence::Kind::generator); };
  const auto count = [](const Value& v) { return v.is_number() && !v.is_double(); };
  if (op == "*" && repeatable(a) && count(b)) return repeated(*this, a, b.integer_value());
  if (op == "*" && repeatable(b) && count(a)) return repeated(*this, b, a.integer_value());
  if (op == "%" && a.as_text()) fail("formatting with '%' is not supported");
  fail("no '{}' for '{}' and '{}'", op, a.type_name(), b.type_name());
}

}  // namespace ponte::jinja
