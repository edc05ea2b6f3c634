// One configuration value on its way in: what YAML and the command line have in common, without their libraries.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

struct YamlEntry;

struct YamlValue {
  enum class Kind { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string text;                                  // scalar, as written
  bool quoted = false;                               // scalar in quotes: text even where it looks like a number or null
  std::vector<YamlValue> items;                      // list
  std::vector<YamlEntry> entries;                    // map, in the order of the document
  int line = 0;                                      // from 1; 0 on the command line

  bool is_null() const { return kind == Kind::null; }
  bool is_scalar() const { return kind == Kind::scalar; }
  const YamlValue* find(std::string_view key) const;
};

struct YamlEntry {
  std::string key;
  YamlValue value;
};

// Strict YAML 1.1 as configuration files use it: no anchors or aliases, no duplicate keys, at most 100 levels, at most one document. UserError
// with the place otherwise. Bridge's serialised objects become scalars: {_target_: torch.bfloat16, _call_: false} is torch.bfloat16, an enum its
// _name_.
YamlValue parse_value(std::string_view yaml, const std::string& file);

// In one line, as it would be written in YAML; for messages.
std::string describe(const YamlValue& value);

// Scalars as YAML prints them: text is quoted where it would read as another type; numbers round-trip.
std::string yaml_text(std::string_view text);
std::string yaml_number(double value);

// The reading side of the same: false when the text is not of the type.
bool read_boolean(const YamlValue& value, bool& out);
bool read_integer(const YamlValue& value, int64_t& out);
bool read_number(const YamlValue& value, double& out);

}  // namespace ponte
