// Walking large JSON objects in linear time with simdjson, refusing a key that comes twice; for safetensors.cpp and hf_index.cpp.
#pragma once
#include <simdjson.h>

#include <string_view>
#include <unordered_set>

#include "base/errors.h"

namespace ponte {

using JsonElement = simdjson::dom::element;
using JsonObject = simdjson::dom::object;

// Calls body(key, value) for every field in order; the views live as long as the parser.
template <class Body>
void each_field(const JsonObject& object, std::string_view origin, Body body) {
  std::unordered_set<std::string_view> seen;
  for (const auto field : object) {
    require(seen.insert(field.key).second, "{}: key '{}' appears twice", origin, field.key);
    body(field.key, field.value);
  }
}

}  // namespace ponte
