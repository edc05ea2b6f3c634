// The body of a Value; for pickle*.cpp only.
#pragma once
#include <variant>

#include "format/pickle.h"

namespace ponte {

struct GlobalName {
  std::string module, name;
};

struct ObjectData {
  GlobalName type;
  Values arguments;
  Value state;
  ValuePairs entries;  // items set on a subclass of dict
  bool is_call = false;
};

struct Value::Node {
  using Payload = std::variant<std::string, Values, ValuePairs, std::unique_ptr<GlobalName>, std::unique_ptr<ObjectData>, std::unique_ptr<TensorValue>>;
  Payload payload;
  int depth = 1;        // levels of values from this one down
  bool frozen = false;  // part of another value: may no longer change, so that no value can come to contain itself

  std::string& text() { return std::get<std::string>(payload); }
  Values& items() { return std::get<Values>(payload); }
  ValuePairs& entries() { return std::get<ValuePairs>(payload); }
  GlobalName& global() { return *std::get<std::unique_ptr<GlobalName>>(payload); }
  ObjectData& object() { return *std::get<std::unique_ptr<ObjectData>>(payload); }
  TensorValue& tensor() { return *std::get<std::unique_ptr<TensorValue>>(payload); }
};

}  // namespace ponte
