// Megatron Bridge's keys that are no keys here: other names for ours, keys without effect, and keys of which only one value is accepted because
// another would change results. Everything a Bridge user may have in a file is in these tables or is an error.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/value.h"

namespace ponte {

// {Bridge's "section.key", ours}; a null value leaves ours alone.
const std::vector<std::pair<std::string_view, std::string_view>>& key_aliases();

// What happens to a key that is not in the listing.
enum class Foreign { unknown, without_effect, wrong_value };
struct ForeignAnswer {
  Foreign kind = Foreign::unknown;
  std::string wanted;  // wrong_value: the accepted values
  std::string_view reason;  // why, where it is not plain from the name; else ""
};
ForeignAnswer foreign_key(std::string_view section, std::string_view key, const YamlValue& value);

// {"section.key", why it has no effect}; for the documentation.
std::span<const std::pair<std::string_view, std::string_view>> foreign_reasons();

// Sections of Bridge with no counterpart; their keys are without effect.
bool foreign_section(std::string_view section);

// All names in the tables, "section.key"; for the nearest-name hint and the documentation.
const std::vector<std::string>& foreign_names();

}  // namespace ponte
