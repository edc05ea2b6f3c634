// One recursive descent over statements and expressions; its functions call one another, so it stays in one file of more than 400 lines.
#include "text/jinja_parser.h"

#include <algorithm>
#include <charconv>

#include "base/errors.h"
#include "text/jinja_lexer.h"

namespace ponte::jinja {
namespace {

using Kind = Expr::Kind;
using T = Token::Kind;

constexpr int kMaxNesting = 150, kMaxHeight = 1000;

class Parser {
 public:
  Parser(std::string_view source, std::string_view origin) : origin_(origin), tokens_(lex(source, origin)) {}

  Body run() {
    Body body = statements({});
    if (token().kind != T::end) unexpected();
    return body;
  }

 private:
  // ---- tokens
  const Token& token(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token next() {
    Token out = token();
    if (at_ + 1 < tokens_.size()) ++at_;
    return out;
  }
  bool is(T kind, std::string_view text, size_t ahead = 0) const { return token(ahead).kind == kind && token(ahead).text == text; }
  bool op(std::string_view text) const { return is(T::op, text); }
  bool word(std::string_view text) const { return is(T::name, text); }
  bool skip_op(std::string_view text) { return op(text) && (next(), true); }
  bool skip_word(std::string_view text) { return word(text) && (next(), true); }
  [[noreturn]] void error(const std::string& what, int line) const { fail("{}, line {}: {}", origin_, line, what); }
  [[noreturn]] void unexpected() const {
    const Token& t = token();
    const bool named = t.kind == T::name || t.kind == T::op || t.kind == T::string || t.kind == T::integer || t.kind == T::real;
    error(named ? format("unexpected '{}'", t.text) : t.kind == T::end ? "the template ends too early" : "unexpected end of a tag", t.line);
  }
  void expect_op(std::string_view text) {
    if (!skip_op(text)) error(format("wanted '{}', found '{}'", text, token().text), token().line);
  }
  std::string expect_name() {
    if (token().kind != T::name) unexpected();
    return next().text;
  }
  void end_block() {
    if (token().kind != T::block_end) unexpected();
    next();
  }

  class Nesting {
   public:
    explicit Nesting(Parser& p) : p_(p) {
      if (++p_.depth_ > kMaxNesting) p_.error(format("nested deeper than {}", kMaxNesting), p_.token().line);
    }
    ~Nesting() { --p_.depth_; }

   private:
    Parser& p_;
  };

  // ---- statements
  // Up to a block whose name is in `ends` (left as the current token), or the end of the template when `ends` is empty.
  Body statements(const std::vector<std::string_view>& ends) {
    const Nesting nesting(*this);
    Body out;
    for (;;) {
      const Token& t = token();
      if (t.kind == T::data) {
        auto node = make(Node::Kind::text);
        node->text = next().text;
        out.push_back(std::move(node));
      } else if (t.kind == T::variable_begin) {
        next();
        auto node = make(Node::Kind::output);
        node->expr = tuple_expression();
        if (token().kind != T::variable_end) unexpected();
        next();
        out.push_back(std::move(node));
      } else if (t.kind == T::block_begin) {
        next();
        if (token().kind != T::name) unexpected();
        if (std::find(ends.begin(), ends.end(), token().text) != ends.end()) return out;
        out.push_back(statement());
      } else if (ends.empty()) {
        return out;
      } else {
        error(format("'{}' is missing", ends.back()), t.line);
      }
    }
  }

  std::unique_ptr<Node> make(Node::Kind kind) const {
    auto node = std::make_unique<Node>();
    node->kind = kind, node->line = token().line;
    return node;
  }
  Body body_until(std::string_view end) {
    end_block();
    Body out = statements({end});
    next();
    end_block();
    return out;
  }

  std::unique_ptr<Node> statement() {
    const std::string name = token().text;
    const int line = token().line;
    next();
    std::unique_ptr<Node> node;
    if (name == "if") node = if_statement();
    else if (name == "for") node = for_statement();
    else if (name == "set") node = set_statement();
    else if (name == "macro") node = macro_statement();
    else if (name == "call") node = call_statement();
    else if (name == "with") node = with_statement();
    else if (name == "filter") node = filter_statement();
    else if (name == "generation") node = make(Node::Kind::scope), node->body = body_until("endgeneration");
    else if (name == "break" || name == "continue") {
      if (!loops_) error(format("'{}' outside of a loop", name), line);
      node = make(name == "break" ? Node::Kind::break_ : Node::Kind::continue_), end_block();
    } else if (name == "include" || name == "import" || name == "from" || name == "extends" || name == "block" || name == "autoescape" || name == "do") {
      error(format("the statement '{}' is not supported in a chat template", name), line);
    } else error(format("unknown statement '{}'", name), line);
    node->line = line;
    return node;
  }

  std::unique_ptr<Node> if_statement() {
    auto node = make(Node::Kind::if_);
    for (;;) {
      ExprPtr condition = tuple_expression(false);
      end_block();
      Body body = statements({"elif", "else", "endif"});
      node->branches.emplace_back(std::move(condition), std::move(body));
      const std::string end = next().text;
      if (end == "elif") continue;
      if (end == "else") node->branches.emplace_back(nullptr, body_until("endif"));
      else end_block();
      return node;
    }
  }

  std::unique_ptr<Node> for_statement() {
    auto node = make(Node::Kind::for_);
    node->target = target(true);
    if (!skip_word("in")) unexpected();
    node->expr = tuple_expression(false, {"recursive"});
    if (skip_word("if")) node->condition = expression();
    node->recursive = skip_word("recursive");
    end_block();
    ++loops_;
    node->body = statements({"else", "endfor"});
    --loops_;
    if (next().text == "else") node->otherwise = body_until("endfor");
    else end_block();
    return node;
  }

  Target target(bool with_tuple) {
    Target first = single_target();
    if (!with_tuple || !op(",")) return first;
    Target out;
    out.kind = Target::Kind::tuple;
    out.parts.push_back(std::move(first));
    while (skip_op(",") && (token().kind == T::name || op("("))) {
      if (word("in")) break;
      out.parts.push_back(single_target());
    }
    return out;
  }
  Target single_target() {
    const Nesting nesting(*this);
    if (skip_op("(")) {
      Target inner = target(true);
      expect_op(")");
      return inner;
    }
    Target out;
    out.name = expect_name();
    if (skip_op(".")) out.kind = Target::Kind::attribute, out.attribute = expect_name();
    return out;
  }

  std::unique_ptr<Node> set_statement() {
    auto node = make(Node::Kind::set);
    node->target = target(true);
    if (skip_op("=")) {
      node->expr = tuple_expression();
      end_block();
      return node;
    }
    node->kind = Node::Kind::set_block;
    node->expr = filters(nullptr);
    node->body = body_until("endset");
    return node;
  }

  // (a, b=1)
  void signature(MacroNode& macro) {
    expect_op("(");
    while (!op(")")) {
      if (!macro.parameters.empty()) expect_op(",");
      macro.parameters.push_back(expect_name());
      if (skip_op("=")) macro.defaults.push_back(expression());
      else if (!macro.defaults.empty()) error("a parameter without a default follows one with a default", token().line);
    }
    next();
  }

  // Notes which of varargs, kwargs and caller the body names.
  template <class Parse>
  void macro_body(MacroNode& macro, Parse&& parse) {
    const size_t from = at_;
    const int loops = std::exchange(loops_, 0);
    macro.body = parse();
    loops_ = loops;
    for (size_t i = from; i < at_; ++i) {
      if (tokens_[i].kind != T::name) continue;
      macro.uses_varargs |= tokens_[i].text == "varargs", macro.uses_kwargs |= tokens_[i].text == "kwargs", macro.uses_caller |= tokens_[i].text == "caller";
    }
  }

  std::unique_ptr<Node> macro_statement() {
    auto node = make(Node::Kind::macro);
    node->macro = std::make_unique<MacroNode>();
    node->macro->line = token().line;
    node->macro->name = expect_name();
    signature(*node->macro);
    macro_body(*node->macro, [&] { return body_until("endmacro"); });
    return node;
  }

  std::unique_ptr<Node> call_statement() {
    auto node = make(Node::Kind::call);
    node->macro = std::make_unique<MacroNode>();
    node->macro->name = "caller", node->macro->line = token().line;
    if (op("(")) signature(*node->macro);
    node->expr = expression();
    if (node->expr->kind != Kind::call) error("wanted a call", node->line);
    macro_body(*node->macro, [&] { return body_until("endcall"); });
    return node;
  }

  std::unique_ptr<Node> with_statement() {
    auto node = make(Node::Kind::with);
    while (token().kind != T::block_end) {
      if (!node->bindings.empty()) expect_op(",");
      Target to = single_target();
      expect_op("=");
      node->bindings.emplace_back(std::move(to), expression());
    }
    node->body = body_until("endwith");
    return node;
  }

  std::unique_ptr<Node> filter_statement() {
    auto node = make(Node::Kind::filter);
    node->expr = filters(nullptr, true);
    node->body = body_until("endfilter");
    return node;
  }

  // ---- expressions
  ExprPtr expr(Kind kind, int line, std::string text = {}) const {
    auto out = std::make_unique<Expr>();
    out->kind = kind, out->line = line, out->text = std::move(text);
    return out;
  }
  template <class... Children>
  ExprPtr expr_of(Kind kind, int line, std::string text, Children... children) const {
    ExprPtr out = expr(kind, line, std::move(text));
    (adopt(*out, std::move(children)), ...);
    return out;
  }
  // Chains such as 1 + 1 + ... grow in height without nesting; walking them recurses.
  void adopt(Expr& parent, ExprPtr child) const {
    if (child) parent.height = std::max(parent.height, child->height + 1);
    if (parent.height > kMaxHeight) error(format("an expression of more than {} parts in a row", kMaxHeight), parent.line);
    parent.children.push_back(std::move(child));
  }
  ExprPtr constant(Value value, int line) const {
    ExprPtr out = expr(Kind::constant, line);
    out->value = std::move(value);
    return out;
  }

  // One expression, or several with commas: a tuple.
  ExprPtr tuple_expression(bool conditional = true, const std::vector<std::string_view>& ends = {}) {
    const int line = token().line;
    const auto one = [&] { return conditional ? expression() : or_expression(); };
    ExprPtr first = one();
    if (!op(",")) return first;
    ExprPtr out = expr_of(Kind::tuple, line, "", std::move(first));
    while (skip_op(",")) {
      const Token& t = token();
      if (t.kind == T::variable_end || t.kind == T::block_end || op(")")) break;
      if (t.kind == T::name && std::find(ends.begin(), ends.end(), t.text) != ends.end()) break;
      out->children.push_back(one());
    }
    return out;
  }

  ExprPtr expression() {
    const Nesting nesting(*this);
    const int line = token().line;
    ExprPtr value = or_expression();
    while (skip_word("if")) {
      ExprPtr condition = or_expression();
      ExprPtr otherwise = skip_word("else") ? expression() : nullptr;
      value = expr_of(Kind::conditional, line, "", std::move(condition), std::move(value), std::move(otherwise));
    }
    return value;
  }
  ExprPtr or_expression() {
    const int line = token().line;
    ExprPtr left = and_expression();
    while (skip_word("or")) left = expr_of(Kind::or_, line, "", std::move(left), and_expression());
    return left;
  }
  ExprPtr and_expression() {
    const int line = token().line;
    ExprPtr left = not_expression();
    while (skip_word("and")) left = expr_of(Kind::and_, line, "", std::move(left), not_expression());
    return left;
  }
  ExprPtr not_expression() {
    const Nesting nesting(*this);
    const int line = token().line;
    if (skip_word("not")) return expr_of(Kind::not_, line, "", not_expression());
    return compare_expression();
  }
  ExprPtr compare_expression() {
    const int line = token().line;
    ExprPtr first = sum();
    ExprPtr out;
    for (;;) {
      std::string found;
      for (const std::string_view o : {"==", "!=", "<", "<=", ">", ">="})
        if (op(o)) found = o;
      if (!found.empty()) next();
      else if (skip_word("in")) found = "in";
      else if (word("not") && is(T::name, "in", 1)) next(), next(), found = "not in";
      else break;
      if (!out) out = expr_of(Kind::compare, line, "", std::move(first));
      out->operators.push_back(found);
      out->children.push_back(sum());
    }
    return out ? std::move(out) : std::move(first);
  }
  ExprPtr sum() {
    const int line = token().line;
    ExprPtr left = concatenation();
    while (op("+") || op("-")) {
      const std::string o = next().text;
      left = expr_of(Kind::binary, line, o, std::move(left), concatenation());
    }
    return left;
  }
  ExprPtr concatenation() {
    const int line = token().line;
    ExprPtr first = product();
    if (!op("~")) return first;
    ExprPtr out = expr_of(Kind::concat, line, "", std::move(first));
    while (skip_op("~")) out->children.push_back(product());
    return out;
  }
  ExprPtr product() {
    const int line = token().line;
    ExprPtr left = power();
    while (op("*") || op("/") || op("//") || op("%")) {
      const std::string o = next().text;
      left = expr_of(Kind::binary, line, o, std::move(left), power());
    }
    return left;
  }
  ExprPtr power() {
    const int line = token().line;
    ExprPtr left = unary(true);
    while (skip_op("**")) left = expr_of(Kind::binary, line, "**", std::move(left), unary(true));
    return left;
  }
  ExprPtr unary(bool with_filters) {
    const Nesting nesting(*this);
    const int line = token().line;
    ExprPtr out;
    if (skip_op("-")) out = expr_of(Kind::negate, line, "", unary(false));
    else if (skip_op("+")) out = expr_of(Kind::plus, line, "", unary(false));
    else out = primary();
    out = postfix(std::move(out));
    return with_filters ? filters_and_tests(std::move(out)) : std::move(out);
  }

  ExprPtr primary() {
    const Token t = next();
    switch (t.kind) {
      case T::name:
        if (t.text == "true" || t.text == "True" || t.text == "false" || t.text == "False") return constant(Value::boolean(t.text == "true" ||
            t.text == "True"), t.line);
        if (t.text == "none" || t.text == "None") return constant(Value(), t.line);
        return expr(Kind::name, t.line, t.text);
      case T::string: {
        std::string text = t.text;
        while (token().kind == T::string) text += next().text;
        return constant(Value::text(std::move(text)), t.line);
      }
      case T::integer: {
        int64_t v = 0;
        const auto [end, problem] = std::from_chars(t.text.data(), t.text.data() + t.text.size(), v);
        if (problem != std::errc()) error(format("the number {} does not fit 64 bits", t.text), t.line);
        return constant(Value::integer(v), t.line);
      }
      case T::real: {
        double v = 0;
        std::from_chars(t.text.data(), t.text.data() + t.text.size(), v);
        return constant(Value(v), t.line);
      }
      default: break;
    }
    --at_;
    if (t.kind == T::end || t.kind != T::op) unexpected();
    next();
    if (t.text == "(") return parenthesised(t.line);
    if (t.text == "[") return list(t.line);
    if (t.text == "{") return dict(t.line);
    --at_;
    unexpected();
  }
  ExprPtr parenthesised(int line) {
    if (skip_op(")")) return expr(Kind::tuple, line);
    ExprPtr inner = tuple_expression();
    expect_op(")");
    return inner;
  }
  ExprPtr list(int line) {
    ExprPtr out = expr(Kind::list, line);
    while (!op("]")) {
      if (!out->children.empty()) expect_op(",");
      if (op("]")) break;
      out->children.push_back(expression());
    }
    next();
    return out;
  }
  ExprPtr dict(int line) {
    ExprPtr out = expr(Kind::dict, line);
    while (!op("}")) {
      if (!out->children.empty()) expect_op(",");
      if (op("}")) break;
      out->children.push_back(expression());
      expect_op(":");
      out->children.push_back(expression());
    }
    next();
    return out;
  }

  ExprPtr postfix(ExprPtr out) {
    for (;;) {
      const int line = token().line;
      if (skip_op(".")) {
        const Token t = next();
        if (t.kind == T::name) out = expr_of(Kind::attribute, line, t.text, std::move(out));
        else if (t.kind == T::integer) out = expr_of(Kind::item, line, "", std::move(out), constant(Value::integer(std::stoll(t.text.substr(0, 18))), line));
        else error("wanted a name after '.'", line);
      } else if (skip_op("[")) {
        out = subscript(std::move(out), line);
      } else if (op("(")) {
        out = call(std::move(out));
      } else {
        return out;
      }
    }
  }
  ExprPtr subscript(ExprPtr of, int line) {
    ExprPtr parts[3];
    bool slice = false;
    for (int i = 0; !op("]"); ++i) {
      if (i == 3) unexpected();
      if (!op(":")) parts[i] = expression();
      if (op("]")) break;
      if (op(",")) error("several subscripts are not supported", line);
      expect_op(":");
      slice = true;
    }
    next();
    if (!slice && !parts[0]) error("an empty subscript", line);
    if (!slice) return expr_of(Kind::item, line, "", std::move(of), std::move(parts[0]));
    return expr_of(Kind::slice, line, "", std::move(of), std::move(parts[0]), std::move(parts[1]), std::move(parts[2]));
  }
  std::vector<Argument> call_arguments() {
    std::vector<Argument> out;
    expect_op("(");
    while (!op(")")) {
      if (!out.empty()) expect_op(",");
      if (op(")")) break;
      Argument argument;
      if (skip_op("**")) argument.spread = Argument::Spread::dict;
      else if (skip_op("*")) argument.spread = Argument::Spread::list;
      else if (token().kind == T::name && is(T::op, "=", 1)) argument.name = next().text, next();
      argument.value = expression();
      out.push_back(std::move(argument));
    }
    next();
    return out;
  }
  ExprPtr call(ExprPtr of) {
    ExprPtr out = expr_of(Kind::call, token().line, "", std::move(of));
    out->arguments = call_arguments();
    return out;
  }

  std::string dotted_name() {
    std::string out = expect_name();
    while (skip_op(".")) out += "." + expect_name();
    return out;
  }
  // `| name(...)` again and again; `begun`: the first name comes without its bar.
  ExprPtr filters(ExprPtr of, bool begun = false) {
    while (begun || op("|")) {
      const int line = token().line;
      if (!begun) next();
      begun = false;
      ExprPtr out = expr_of(Kind::filter, line, dotted_name(), std::move(of));
      if (op("(")) out->arguments = call_arguments();
      of = std::move(out);
    }
    return of;
  }
  ExprPtr filters_and_tests(ExprPtr of) {
    for (;;) {
      if (op("|")) of = filters(std::move(of));
      else if (word("is")) of = test(std::move(of));
      else if (op("(")) of = call(std::move(of));
      else return of;
    }
  }
  ExprPtr test(ExprPtr of) {
    const int line = token().line;
    next();
    const bool negated = skip_word("not");
    ExprPtr out = expr_of(Kind::test, line, dotted_name(), std::move(of));
    const Token& t = token();
    if (op("(")) {
      out->arguments = call_arguments();
    } else if ((t.kind == T::name || t.kind == T::string || t.kind == T::integer || t.kind == T::real || op("[") || op("{")) && !word("else") && !word("or") &&
               !word("and")) {
      if (word("is")) error("tests cannot be chained with 'is'", t.line);
      out->arguments.push_back({"", postfix(primary())});
    }
    return negated ? expr_of(Kind::not_, line, "", std::move(out)) : std::move(out);
  }

  std::string_view origin_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
};

}  // namespace

Body parse_template(std::string_view source, std::string_view origin) { return Parser(source, origin).run(); }

}  // namespace ponte::jinja
