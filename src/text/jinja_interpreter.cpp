// The tree walker. Statements write to out_; expressions give values. What an operation means is Python's.
#include "text/jinja_interpreter.h"

#include <algorithm>
#include <cmath>
#include <ctime>

#include "base/checked.h"
#include "base/errors.h"

namespace ponte::jinja {

const Value* Scope::find(std::string_view name) const {
  for (const Scope* s = this; s; s = s->parent_)
    for (const auto& [key, value] : s->variables_)
      if (key == name) return &value;
  return nullptr;
}

void Scope::set(const std::string& name, Value value) {
  for (auto& [key, known] : variables_)
    if (key == name) {
      known = std::move(value);
      return;
    }
  variables_.emplace_back(name, std::move(value));
}

// A scope for the length of a block.
class ScopeGuard {
 public:
  ScopeGuard(Interpreter& interpreter, Scope* parent) : interpreter_(interpreter), outer_(interpreter.scope_) {
    require(interpreter.scopes_.size() < interpreter.limits_.scopes, "more than {} loops and macro calls", interpreter.limits_.scopes);
    own_ = &interpreter.scopes_.emplace_back(parent);
    interpreter_.scope_ = own_;
  }
  ~ScopeGuard() {
    own_->clear();
    interpreter_.scope_ = outer_;
  }
  ScopeGuard(const ScopeGuard&) = delete;

 private:
  Interpreter& interpreter_;
  Scope *outer_, *own_;
};

Interpreter::~Interpreter() {
  for (const auto& n : namespaces_) n->variables.items.clear();
}

std::string Interpreter::render(const Body& body, const Dict& variables) {
  const char here = 0;
  stack_start_ = &here;
  Scope& globals = scopes_.emplace_back(nullptr);
  for (const char* name : {"range", "dict", "namespace", "raise_exception", "strftime_now"})
    globals.set(name, Value(std::make_shared<const Function>(Function{name})));
  for (const auto& [key, value] : variables.items) globals.set(key.str(), value);
  scope_ = &globals;
  std::string out;
  out_ = &out;
  try {
    exec(body);
  } catch (const UserError& e) {
    fail("{}, line {}: {}", origin_, line_, e.what());
  }
  return out;
}

void Interpreter::step(int64_t n) {
  limits_.steps -= n;
  require(limits_.steps >= 0, "the template does not come to an end within the limit of steps");
}

Value Interpreter::text(std::string bytes, bool safe) {
  limits_.bytes -= static_cast<int64_t>(bytes.size());
  require(limits_.bytes >= 0, "the template produces more text than the limit allows");
  return Value::text(std::move(bytes), safe);
}

void Interpreter::write(std::string_view text) {
  limits_.bytes -= static_cast<int64_t>(text.size());
  require(limits_.bytes >= 0, "the template produces more text than the limit allows");
  *out_ += text;
}

std::string Interpreter::capture(const Body& body) {
  std::string own;
  std::string* outer = std::exchange(out_, &own);
  try {
    exec(body);
  } catch (...) {
    out_ = outer;
    throw;
  }
  out_ = outer;
  return own;
}

// ---- statements

Interpreter::Flow Interpreter::exec(const Body& body) {
  for (const auto& node : body)
    if (const Flow flow = exec(*node); flow != Flow::next) return flow;
  return Flow::next;
}

Interpreter::Flow Interpreter::exec(const Node& node) {
  using K = Node::Kind;
  step();
  line_ = node.line;
  switch (node.kind) {
    case K::text: write(node.text); break;
    case K::output: write(eval(*node.expr).str()); break;
    case K::if_:
      for (const auto& [condition, body] : node.branches)
        if (!condition || eval(*condition).truthy()) return exec(body);
      break;
    case K::for_: return exec_for(node, eval(*node.expr), 0);
    case K::set: assign(node.target, eval(*node.expr)); break;
    case K::set_block: {
      std::string captured;
      {
        const ScopeGuard scope(*this, scope_);
        captured = capture(node.body);
      }
      Value value = text(std::move(captured));
      if (node.expr) {
        scope_->set("", value);
        value = eval(*node.expr);
      }
      assign(node.target, value);
      break;
    }
    case K::macro: scope_->set(node.macro->name, macro_value(*node.macro)); break;
    case K::call: {
      CallArguments arguments = evaluate(node.expr->arguments);
      arguments.named.emplace_back("caller", macro_value(*node.macro));
      write(call(eval(*node.expr->children[0]), arguments).str());
      break;
    }
    case K::filter: {
      const ScopeGuard scope(*this, scope_);
      scope_->set("", text(capture(node.body)));
      write(eval(*node.expr).str());
      break;
    }
    case K::with: {
      std::vector<Value> values;
      for (const auto& [target, value] : node.bindings) values.push_back(eval(*value));
      const ScopeGuard scope(*this, scope_);
      for (size_t i = 0; i < values.size(); ++i) assign(node.bindings[i].first, values[i]);
      return exec(node.body);
    }
    case K::scope: {
      const ScopeGuard scope(*this, scope_);
      return exec(node.body);
    }
    case K::break_: return Flow::break_;
    case K::continue_: return Flow::continue_;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::exec_for(const Node& node, const Value& over, int64_t depth0) {
  const char here = 0;
  require(std::abs(stack_start_ - &here) < limits_.stack_bytes, "recursion is too deep");
  std::vector<Value> items = iterate(over);
  Scope* outer = scope_;
  const ScopeGuard scope(*this, outer);
  if (node.condition) {
    std::vector<Value> kept;
    for (Value& item : items) {
      scope_->clear();
      assign(node.target, item);
      if (eval(*node.condition).truthy()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  auto loop = std::make_shared<Loop>();
  loop->items = std::make_shared<const Sequence>(Sequence{std::move(items), Sequence::Kind::list});
  loop->depth0 = depth0;
  if (node.recursive) loop->body = &node, loop->scope = outer;
  for (const Value& item : loop->items->items) {
    step();
    scope_->clear();
    scope_->set("loop", Value(loop));
    assign(node.target, item);
    const Flow flow = exec(node.body);
    if (flow == Flow::break_) break;
    ++loop->index0;
  }
  if (loop->items->items.empty()) {
    scope_->clear();
    return exec(node.otherwise);
  }
  return Flow::next;
}

void Interpreter::assign(const Target& target, Value value) {
  switch (target.kind) {
    case Target::Kind::name: scope_->set(target.name, std::move(value)); return;
    case Target::Kind::attribute: {
      const Value* known = scope_->find(target.name);
      require(known && known->as_namespace(), "cannot set '{}.{}': '{}' is not a namespace", target.name, target.attribute, target.name);
      known->as_namespace()->variables.set(Value::text(target.attribute), std::move(value));
      return;
    }
    case Target::Kind::tuple: {
      const std::vector<Value> values = iterate(value);
      require(values.size() == target.parts.size(), "wanted {} values to unpack, found {}", target.parts.size(), values.size());
      for (size_t i = 0; i < values.size(); ++i) assign(target.parts[i], values[i]);
    }
  }
}

// ---- expressions

Value Interpreter::eval(const Expr& e) {
  using K = Expr::Kind;
  const char here = 0;
  require(std::abs(stack_start_ - &here) < limits_.stack_bytes, "recursion is too deep");
  step();
  line_ = e.line;
  const auto child = [&](size_t i) { return eval(*e.children[i]); };
  switch (e.kind) {
    case K::constant: return e.value;
    case K::name: {
      const Value* found = scope_->find(e.text);
      return found ? *found : Value::undefined(format("'{}' is undefined", e.text));
    }
    case K::list: case K::tuple: {
      std::vector<Value> items;
      for (const auto& item : e.children) items.push_back(eval(*item));
      return Value::list(std::move(items), e.kind == K::list ? Sequence::Kind::list : Sequence::Kind::tuple);
    }
    case K::dict: {
      Dict dict;
      for (size_t i = 0; i < e.children.size(); i += 2) {
        step(static_cast<int64_t>(dict.items.size()));
        Value key = child(i);
        dict.set(std::move(key), child(i + 1));
      }
      return Value::dict(std::move(dict));
    }
    case K::attribute: return get_attribute(child(0), e.text);
    case K::item: {
      const Value of = child(0);
      return get_item(of, child(1));
    }
    case K::slice: return eval_slice(e);
    case K::call: return eval_call(e);
    case K::filter: {
      const Value of = e.children[0] ? child(0) : *scope_->find("");  // of a filter or set block: its text
      return call_filter(e.text, of, evaluate(e.arguments));
    }
    case K::test: {
      const Value of = child(0);
      return Value::boolean(call_test(e.text, of, evaluate(e.arguments)));
    }
    case K::negate: case K::plus: {
      const Value v = child(0);
      return e.kind == K::negate ? binary("-", Value::integer(0), v) : binary("+", Value::integer(0), v);
    }
    case K::not_: return Value::boolean(!child(0).truthy());
    case K::and_: {
      Value left = child(0);
      return left.truthy() ? child(1) : left;
    }
    case K::or_: {
      Value left = child(0);
      return left.truthy() ? left : child(1);
    }
    case K::binary: {
      const Value left = child(0);
      return binary(e.text, left, child(1));
    }
    case K::concat: {
      std::string out;
      for (const auto& part : e.children) out += eval(*part).str();
      return text(std::move(out));
    }
    case K::compare: return eval_compare(e);
    case K::conditional:
      if (child(0).truthy()) return child(1);
      return e.children[2] ? child(2) : Value::undefined("the inline if-expression evaluated to false and no else section was defined");
  }
  return {};
}

Value Interpreter::eval_call(const Expr& e) {
  const Expr& callee = *e.children[0];
  if (callee.kind != Expr::Kind::attribute) {
    const Value f = eval(callee);
    return call(f, evaluate(e.arguments));
  }
  const Value self = eval(*callee.children[0]);
  const Value f = get_attribute(self, callee.text);
  const CallArguments arguments = evaluate(e.arguments);
  line_ = e.line;
  if (f.as_method()) return call_method(self, callee.text, arguments);
  return call(f, arguments);
}

CallArguments Interpreter::evaluate(const std::vector<Argument>& arguments) {
  CallArguments out;
  for (const Argument& a : arguments) {
    Value value = eval(*a.value);
    if (a.spread == Argument::Spread::list) {
      for (Value& item : iterate(value)) out.positional.push_back(std::move(item));
    } else if (a.spread == Argument::Spread::dict) {
      require(value.as_dict(), "argument after ** is of type '{}', wanted a dict", value.type_name());
      for (const auto& [key, item] : value.as_dict()->items) out.named.emplace_back(key.str(), item);
    } else if (!a.name.empty()) {
      out.named.emplace_back(a.name, std::move(value));
    } else {
      out.positional.push_back(std::move(value));
    }
  }
  return out;
}

Value Interpreter::eval_compare(const Expr& e) {
  Value left = eval(*e.children[0]);
  for (size_t i = 0; i < e.operators.size(); ++i) {
    Value right = eval(*e.children[i + 1]);
    const std::string& op = e.operators[i];
    bool holds;
    if (op == "==" || op == "!=") holds = equal(left, right) == (op == "==");
    else if (op == "in" || op == "not in") holds = contains(left, right) == (op == "in");
    else {
      const int c = compare(left, right);
      holds = op == "<" ? c < 0 : op == "<=" ? c <= 0 : op == ">" ? c > 0 : c >= 0;
    }
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

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

// ---- calls

const Value* CallArguments::find(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named)
    if (key == name) return &value;
  return nullptr;
}

void CallArguments::check(std::string_view what, size_t most, std::initializer_list<std::string_view> names) const {
  require(positional.size() <= most, "{}: {} arguments, at most {} are known", what, positional.size(), most);
  for (const auto& [key, value] : named) require(std::find(names.begin(), names.end(), key) != names.end(), "{}: unknown argument '{}'", what, key);
}

Value Interpreter::macro_value(const MacroNode& node) { return Value(std::make_shared<const Macro>(Macro{&node, scope_})); }

Value Interpreter::call(const Value& callee, const CallArguments& arguments) {
  if (const Macro* macro = callee.as_macro()) return call_macro(*macro, arguments);
  if (const Method* method = callee.as_method()) return call_method(*method->self, method->name, arguments);
  if (const Function* function = callee.as_function()) return call_function(function->name, arguments);
  if (Loop* loop = callee.as_loop()) return call_loop(*loop, arguments);
  if (const Undefined* u = callee.as_undefined()) fail("{}", u->why);
  fail("a value of type '{}' cannot be called", callee.type_name());
}

Value Interpreter::call_macro(const Macro& macro, const CallArguments& arguments) {
  const char here = 0;
  require(std::abs(stack_start_ - &here) < limits_.stack_bytes, "recursion is too deep");
  const MacroNode& node = *macro.node;
  const ScopeGuard scope(*this, macro.scope);
  const size_t n = node.parameters.size(), first_default = n - node.defaults.size();
  for (size_t i = 0; i < n; ++i) {
    const Value* given = arguments.find(i, node.parameters[i]);
    if (given) scope_->set(node.parameters[i], *given);
    else if (i >= first_default) scope_->set(node.parameters[i], eval(*node.defaults[i - first_default]));
    else scope_->set(node.parameters[i], Value::undefined(format("parameter '{}' was not provided", node.parameters[i])));
  }
  std::vector<Value> more(arguments.positional.begin() + static_cast<std::ptrdiff_t>(std::min(n, arguments.positional.size())), arguments.positional.end());
  require(more.empty() || node.uses_varargs, "macro '{}' takes no more than {} arguments", node.name, n);
  if (node.uses_varargs) scope_->set("varargs", Value::list(std::move(more), Sequence::Kind::tuple));
  Dict rest;
  bool caller = false;
  for (const auto& [key, value] : arguments.named) {
    if (std::find(node.parameters.begin(), node.parameters.end(), key) != node.parameters.end()) continue;
    if (key == "caller") scope_->set("caller", value), caller = true;
    else rest.set(Value::text(key), value);
  }
  require(!caller || node.uses_caller, "macro '{}' was called with a block but takes none", node.name);
  if (!caller && node.uses_caller) scope_->set("caller", Value::undefined("No caller defined"));
  require(rest.items.empty() || node.uses_kwargs, "macro '{}' takes no keyword argument '{}'", node.name, rest.items.empty() ? "" : rest.items[0].first.str());
  if (node.uses_kwargs) scope_->set("kwargs", Value::dict(std::move(rest)));
  return text(capture(node.body));
}

Value Interpreter::call_loop(Loop& loop, const CallArguments& arguments) {
  require(loop.body, "the loop was called, but it has no 'recursive'");
  arguments.check("loop", 1);
  const Value* over = arguments.find(0, "iterable");
  require(over, "loop: an argument is missing");
  Scope* const before = scope_;
  scope_ = loop.scope;
  std::string own;
  std::string* const outer = std::exchange(out_, &own);
  exec_for(*static_cast<const Node*>(loop.body), *over, loop.depth0 + 1);
  out_ = outer;
  scope_ = before;
  return text(std::move(own));
}

Value Interpreter::call_function(const std::string& name, const CallArguments& arguments) {
  if (name == "raise_exception") {
    const Value* message = arguments.find(0, "message");
    fail("{}", message ? message->str() : "");
  }
  if (name == "strftime_now") return strftime_now(arguments);
  if (name == "range") return range(arguments);
  // dict(...) and namespace(...): pairs or a mapping, then keywords.
  Dict dict;
  require(arguments.positional.size() <= 1, "{}: {} arguments, at most 1 is known", name, arguments.positional.size());
  if (const Value* first = arguments.find(0, "")) {
    if (first->as_dict()) dict = *first->as_dict();
    else
      for (const Value& pair : iterate(*first)) {
        const std::vector<Value> both = iterate(pair);
        require(both.size() == 2, "{}: an element of {} values, wanted pairs", name, both.size());
        step(static_cast<int64_t>(dict.items.size()));
        dict.set(both[0], both[1]);
      }
  }
  for (const auto& [key, value] : arguments.named) dict.set(Value::text(key), value);
  if (name == "dict") return Value::dict(std::move(dict));
  namespaces_.push_back(std::make_shared<Namespace>(Namespace{std::move(dict)}));
  return Value(namespaces_.back());
}

Value Interpreter::range(const CallArguments& arguments) {
  arguments.check("range", 3);
  int64_t v[3] = {0, 0, 1};
  const size_t n = arguments.positional.size();
  require(n >= 1, "range: an argument is missing");
  for (size_t i = 0; i < n; ++i) {
    const Value& a = arguments.positional[i];
    if (a.as_undefined()) fail("{}", a.as_undefined()->why);
    require(a.is_number() && !a.is_double(), "range: an argument of type '{}', wanted int", a.type_name());
    v[n == 1 ? 1 : i] = a.integer_value();
  }
  require(v[2] != 0, "range: a step of 0");
  std::vector<Value> out;
  for (int64_t i = v[0]; v[2] > 0 ? i < v[1] : i > v[1];) {
    require(static_cast<int64_t>(out.size()) < limits_.range, "range: more than {} numbers", limits_.range);
    out.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, v[2], &i)) break;
  }
  step(static_cast<int64_t>(out.size()));
  return Value::list(std::move(out));
}

Value Interpreter::strftime_now(const CallArguments& arguments) {
  arguments.check("strftime_now", 1, {"format"});
  const Value* pattern = arguments.find(0, "format");
  require(pattern && pattern->as_text(), "strftime_now: wanted a format");
  require(pattern->as_text()->bytes.size() < 1000, "strftime_now: a format of {} bytes", pattern->as_text()->bytes.size());
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(8192, '\0');
  out.resize(std::strftime(out.data(), out.size(), pattern->as_text()->bytes.c_str(), &local));
  return text(std::move(out));
}

}  // namespace ponte::jinja
