// JSON documents (nlohmann, key order kept). Reading is strict: errors carry file, line and column; a duplicate key is an error.
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace ponte {

using Json = nlohmann::ordered_json;

// `origin` names the document in errors ("config.json"). Nesting deeper than 200 is an error.
Json parse_json(std::string_view text, std::string_view origin);
Json read_json(const std::filesystem::path& file);
// Two-space indentation and a final newline, as transformers writes configs; non-ASCII kept as UTF-8.
std::string dump_json(const Json& value);

// Field access with errors that name the document: `get<int64_t>(config, "hidden_size", "config.json")`. Defined for int64_t, double, bool, string.
template <class T>
T json_get(const Json& object, std::string_view key, std::string_view origin);
template <class T>
T json_get_or(const Json& object, std::string_view key, T fallback, std::string_view origin);  // absent or null: fallback

}  // namespace ponte
