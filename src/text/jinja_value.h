// Values of the template language, with Python's meaning of truth, equality, order, str() and repr().
//
// Source: the Python data model as jinja2 3.1 exposes it in ImmutableSandboxedEnvironment. Lists and dictionaries never change after they are
// made; a namespace does.
#pragma once
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"

namespace ponte::jinja {

class Value;
struct MacroNode;
class Scope;

struct None {};
struct Undefined {
  std::string why;  // what an operation on it says: "'x' is undefined"
};
struct Text {
  std::string bytes;   // UTF-8; lengths and indices count characters
  bool safe = false;   // jinja's Markup: joining it with + escapes the other side
};
struct Sequence {
  enum class Kind { list, tuple, generator };
  std::vector<Value> items;
  Kind kind = Kind::list;
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Value key, Value value);
};
struct Namespace {
  Dict variables;
};
struct Method {  // obj.name, not yet called
  std::shared_ptr<const Value> self;
  std::string name;
};
struct Macro {
  const MacroNode* node;
  Scope* scope;  // where it was defined; kept alive by the interpreter
};
struct Function {  // a global such as range
  std::string name;
};
struct Loop;  // the `loop` variable

class Value {
 public:
  using Variant = std::variant<None, std::shared_ptr<const Undefined>, bool, int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<const Sequence>,
                               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>, std::shared_ptr<const Method>, std::shared_ptr<const Macro>,
                               std::shared_ptr<const Function>, std::shared_ptr<Loop>>;
  Value() : data_(None{}) {}
  template <class T>
  explicit Value(T data) requires std::is_constructible_v<Variant, T> : data_(std::move(data)) {}
  static Value undefined(std::string why) { return Value(std::make_shared<const Undefined>(Undefined{std::move(why)})); }
  static Value text(std::string bytes, bool safe = false) { return Value(std::make_shared<const Text>(Text{std::move(bytes), safe})); }
  static Value list(std::vector<Value> items, Sequence::Kind kind = Sequence::Kind::list) {
    return Value(std::make_shared<const Sequence>(Sequence{std::move(items), kind}));
  }
  static Value dict(Dict dict) { return Value(std::make_shared<const Dict>(std::move(dict))); }
  static Value integer(int64_t v) { return Value(v); }
  static Value boolean(bool v) { return Value(v); }

  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(data_); }
  bool is_double() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_integer() || is_double(); }
  const Undefined* as_undefined() const { return get<const Undefined>(); }
  const Text* as_text() const { return get<const Text>(); }
  const Sequence* as_sequence() const { return get<const Sequence>(); }
  const Dict* as_dict() const { return get<const Dict>(); }
  Namespace* as_namespace() const { return get<Namespace>(); }
  const Method* as_method() const { return get<const Method>(); }
  const Macro* as_macro() const { return get<const Macro>(); }
  const Function* as_function() const { return get<const Function>(); }
  Loop* as_loop() const { return get<Loop>(); }
  bool is_callable() const { return as_method() || as_macro() || as_function(); }

  // Numbers with bool as 0 and 1; only after is_number() (integer_value: not for a double).
  int64_t integer_value() const { return is_bool() ? std::get<bool>(data_) : std::get<int64_t>(data_); }
  double number_value() const { return is_double() ? std::get<double>(data_) : static_cast<double>(integer_value()); }

  bool truthy() const;
  std::string str() const;        // Python's str(); "" for undefined
  std::string repr() const;
  const char* type_name() const;  // Python's: "str", "dict", ...

 private:
  template <class T>
  T* get() const {
    const auto* held = std::get_if<std::shared_ptr<T>>(&data_);
    return held ? held->get() : nullptr;
  }
  Variant data_;
};

// Source: jinja2.runtime.LoopContext.
struct Loop {
  std::shared_ptr<const Sequence> items;
  int64_t index0 = 0, depth0 = 0;
  std::vector<Value> last_changed;
  bool changed_before = false;
  const void* body = nullptr;  // the ForNode of a recursive loop
  Scope* scope = nullptr;
};

bool equal(const Value& a, const Value& b);
int compare(const Value& a, const Value& b);  // <0, 0, >0; UserError when Python has no order for the two
std::string python_float(double v);           // repr(float)
Value from_json(const Json& json);

struct JsonStyle {
  int64_t indent = -1;  // -1: one line
  std::string item_separator = ", ", key_separator = ": ";
  bool ascii = false, sort_keys = false;
};
std::string to_json(const Value& value, const JsonStyle& style);  // json.dumps

// Characters of UTF-8 text.
int64_t length(std::string_view text);
std::vector<std::string_view> characters(std::string_view text);

}  // namespace ponte::jinja
