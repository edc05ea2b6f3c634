#include "base/json.h"

#include <nlohmann/json.hpp>
#include <set>

#include "base/errors.h"
#include "base/file.h"

namespace ponte {
namespace {

constexpr int kMaxDepth = 200;

std::string place(std::string_view text, size_t byte) {
  size_t line = 1, column = 1;
  for (size_t i = 0; i < byte && i < text.size(); ++i) {
    if (text[i] == '\n') ++line, column = 1;
    else ++column;
  }
  return format("line {}, column {}", line, column);
}

}  // namespace

Json parse_json(std::string_view text, std::string_view origin) {
  std::vector<std::set<std::string>> keys;
  auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    require(depth < kMaxDepth, "{}: nested deeper than {}", origin, kMaxDepth);
    if (event == Event::object_start) keys.emplace_back();
    else if (event == Event::object_end) keys.pop_back();
    else if (event == Event::key)
      require(keys.back().insert(parsed.get<std::string>()).second, "{}: key '{}' appears twice in one object", origin, parsed.get<std::string>());
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::parse_error& e) {
    fail("{}: not valid JSON at {}", origin, place(text, e.byte ? e.byte - 1 : 0));
  } catch (const Json::exception& e) {
    fail("{}: not valid JSON ({})", origin, e.what());
  }
}

Json read_json(const std::filesystem::path& file) { return parse_json(read_file(file), file.string()); }

std::string dump_json(const Json& value) {
  return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

namespace {
template <class T>
bool matches(const Json& v) {
  if constexpr (std::is_same_v<T, int64_t>) return v.is_number_integer();
  else if constexpr (std::is_same_v<T, double>) return v.is_number();
  else if constexpr (std::is_same_v<T, bool>) return v.is_boolean();
  else return v.is_string();
}
template <class T>
constexpr const char* kKind = std::is_same_v<T, int64_t>  ? "an integer"
                              : std::is_same_v<T, double> ? "a number"
                              : std::is_same_v<T, bool>   ? "true or false"
                                                          : "a string";
}  // namespace

template <class T>
T json_get(const Json& object, std::string_view key, std::string_view origin) {
  require(object.is_object(), "{}: not a JSON object", origin);
  const auto it = object.find(std::string(key));
  require(it != object.end(), "{}: '{}' is missing", origin, key);
  require(matches<T>(*it), "{}: '{}' is {}, wanted {}", origin, key, it->dump(), kKind<T>);
  return it->template get<T>();
}

template <class T>
T json_get_or(const Json& object, std::string_view key, T fallback, std::string_view origin) {
  require(object.is_object(), "{}: not a JSON object", origin);
  const auto it = object.find(std::string(key));
  if (it == object.end() || it->is_null()) return fallback;
  return json_get<T>(object, key, origin);
}

#define PONTE_JSON_GET(T) \
  template T json_get<T>(const Json&, std::string_view, std::string_view); \
  template T json_get_or<T>(const Json&, std::string_view, T, std::string_view);
PONTE_JSON_GET(int64_t)
PONTE_JSON_GET(double)
PONTE_JSON_GET(bool)
PONTE_JSON_GET(std::string)
#undef PONTE_JSON_GET

}  // namespace ponte
