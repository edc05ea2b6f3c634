#include "families/rule.h"

#include "base/errors.h"

namespace ponte {

std::string Rule::name() const {
  std::string out = layer >= 0 ? format("{}.{}.{}", stack, layer, leaf) : leaf;
  return expert >= 0 ? out + std::to_string(expert) : out;
}

const Rule& RuleTable::find(std::string_view live_name) const {
  for (const Rule& rule : rules)
    if (rule.name() == live_name) return rule;
  std::vector<std::string> names;
  for (const Rule& rule : rules) names.push_back(rule.name());
  const std::string near = nearest(live_name, names);
  fail("the model has no parameter '{}'{}", live_name, near.empty() ? "" : format("; nearest: '{}'", near));
}

}  // namespace ponte
