// Calls: macros, `loop` of a recursive loop, and the global functions.
#include "text/jinja_interpreter.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>

#include "base/errors.h"

namespace ponte::jinja {

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
