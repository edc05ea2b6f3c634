// The parsed template: expressions and statements. Names follow jinja2.nodes.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "text/jinja_value.h"

namespace ponte::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Argument {
  std::string name;  // "" for a positional one
  ExprPtr value;
  enum class Spread { none, list, dict } spread = Spread::none;
};

struct Expr {
  enum class Kind {
    constant, name, list, tuple, dict,  // children: items, or key and value in turn
    attribute, item, slice,             // attribute: text; item: children[0][children[1]]; slice: children[0][a:b:c], null where left out
    call, filter, test,                 // call: children[0](arguments); filter, test: children[0], text, arguments
    negate, plus, not_, and_, or_, binary, concat, compare, conditional
  };
  Kind kind;
  int line, height = 1;
  std::string text;                // name, attribute, filter, test or operator
  std::vector<std::string> operators;  // compare: between the children
  Value value;                     // constant
  std::vector<ExprPtr> children;
  std::vector<Argument> arguments;
};

struct Node;
using Body = std::vector<std::unique_ptr<Node>>;

// Where a value goes: a name, several names (unpacking), or a namespace's attribute.
struct Target {
  enum class Kind { name, tuple, attribute } kind = Kind::name;
  std::string name, attribute;
  std::vector<Target> parts;
};

struct MacroNode {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // for the last defaults.size() parameters
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
  Body body;
  int line = 0;
};

struct Node {
  enum class Kind { text, output, if_, for_, set, set_block, macro, call, filter, with, scope, break_, continue_ };
  Kind kind;
  int line;
  std::string text;                                  // text
  ExprPtr expr;                                      // output, for_ (what to go over), set, call; filter, set_block: filters on an empty name
  std::vector<std::pair<ExprPtr, Body>> branches;    // if_: condition (null for else) and body
  Target target;                                     // for_, set, set_block
  ExprPtr condition;                                 // for_ ... if
  bool recursive = false;                            // for_
  Body body, otherwise;
  std::unique_ptr<MacroNode> macro;                  // macro, call
  std::vector<std::pair<Target, ExprPtr>> bindings;  // with
};

}  // namespace ponte::jinja
