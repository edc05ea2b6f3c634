#include "families/rule.h"

#include <charconv>

#include "base/errors.h"

namespace ponte {
namespace {

bool take(std::string_view& text, std::string_view start) {
  if (!text.starts_with(start)) return false;
  text.remove_prefix(start.size());
  return true;
}

bool take(std::string_view& text, int64_t number) {
  char digits[24];
  const char* end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  return take(text, std::string_view(digits, static_cast<size_t>(end - digits)));
}

// name() == text, without building the name: a sparse model has tens of thousands.
bool is_named(const Rule& rule, std::string_view text) {
  if (rule.layer >= 0 && !(take(text, rule.stack) && take(text, ".") && take(text, rule.layer) && take(text, "."))) return false;
  return take(text, rule.leaf) && (rule.expert < 0 || take(text, rule.expert)) && text.empty();
}

}  // namespace

std::string Rule::name() const {
  std::string out = layer >= 0 ? format("{}.{}.{}", stack, layer, leaf) : leaf;
  return expert >= 0 ? out + std::to_string(expert) : out;
}

bool Rule::is_optimized() const { return !leaf.ends_with("router.expert_bias"); }

const Rule& RuleTable::find(std::string_view live_name) const {
  for (const Rule& rule : rules)
    if (is_named(rule, live_name)) return rule;
  std::vector<std::string> names;
  for (const Rule& rule : rules) names.push_back(rule.name());
  const std::string near = nearest(live_name, names);
  fail("the model has no parameter '{}'{}", live_name, near.empty() ? "" : format("; nearest: '{}'", near));
}

}  // namespace ponte
