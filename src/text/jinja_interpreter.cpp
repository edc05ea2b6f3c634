// The tree walker. Statements write to out_; expressions give values. What an operation means is Python's.
#include "text/jinja_interpreter.h"

#include <cstdlib>

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

}  // namespace ponte::jinja
