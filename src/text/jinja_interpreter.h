// Runs a parsed template. Scopes as in jinja2: a loop body, a macro and a call block have one of their own; `set` writes to the innermost.
#pragma once
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "text/jinja_ast.h"

namespace ponte::jinja {

class Scope {
 public:
  explicit Scope(Scope* parent) : parent_(parent) {}
  const Value* find(std::string_view name) const;  // here or further out
  void set(const std::string& name, Value value);
  void clear() { variables_.clear(); }  // the scope itself stays
  Scope* parent() const { return parent_; }

 private:
  Scope* parent_;
  std::vector<std::pair<std::string, Value>> variables_;
};

// The values of a call: positional ones, and named ones.
struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // Takes parameter `index` or `name`; null when it was not given.
  const Value* find(size_t index, std::string_view name) const;
  // UserError unless at most `most` positional ones were given and every named one is among `names`.
  void check(std::string_view what, size_t most, std::initializer_list<std::string_view> names = {}) const;
};

// What one rendering may use up.
struct Limits {
  int64_t steps = 20'000'000;          // nodes evaluated and elements walked
  int64_t bytes = int64_t{1} << 28;    // text produced, intermediate results included
  int64_t stack_bytes = 2 << 20;
  size_t scopes = 1'000'000;           // loops entered and macros called
  int64_t range = 100'000;             // longest range(), as jinja2's sandbox
};

class Interpreter {
 public:
  explicit Interpreter(std::string_view origin) : origin_(origin) {}
  ~Interpreter();
  std::string render(const Body& body, const Dict& variables);

  // For filters, tests and methods.
  Value call_filter(const std::string& name, const Value& of, const CallArguments& arguments);
  bool call_test(const std::string& name, const Value& of, const CallArguments& arguments);
  Value call_method(const Value& self, const std::string& name, const CallArguments& arguments);
  Value call(const Value& callee, const CallArguments& arguments);
  Value get_attribute(const Value& of, const std::string& name);
  Value get_item(const Value& of, const Value& key);
  std::vector<Value> iterate(const Value& of);
  Value add(const Value& a, const Value& b);
  bool contains(const Value& needle, const Value& in);
  Value text(std::string bytes, bool safe = false);  // counts towards the limit
  void step(int64_t n = 1);

 private:
  enum class Flow { next, break_, continue_ };
  Value eval(const Expr& e);
  Value eval_call(const Expr& e);
  Value eval_compare(const Expr& e);
  Value eval_slice(const Expr& e);
  Value binary(const std::string& op, const Value& a, const Value& b);
  CallArguments evaluate(const std::vector<Argument>& arguments);
  Flow exec(const Body& body);
  Flow exec(const Node& node);
  Flow exec_for(const Node& node, const Value& over, int64_t depth0);
  void assign(const Target& target, Value value);
  std::string capture(const Body& body);
  Value call_macro(const Macro& macro, const CallArguments& arguments);
  Value call_function(const std::string& name, const CallArguments& arguments);
  Value range(const CallArguments& arguments);
  Value strftime_now(const CallArguments& arguments);
  Value call_loop(Loop& loop, const CallArguments& arguments);
  Value macro_value(const MacroNode& node);
  void write(std::string_view text);

  std::string_view origin_;
  Limits limits_;
  Scope* scope_ = nullptr;
  std::string* out_ = nullptr;
  int line_ = 0;
  const char* stack_start_ = nullptr;
  // Macros point at scopes, and namespaces may hold themselves, so both live until the end of the rendering.
  std::deque<Scope> scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  friend class ScopeGuard;
};

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

// jinja_methods.cpp: whether Python's type of `self` has a method of this name, and whether the sandbox lets it be called.
enum class MethodKind { none, known, unsupported, unsafe };
MethodKind method_kind(const Value& self, std::string_view name);

}  // namespace ponte::jinja
