#include "nn/parameters.h"

#include <ATen/ops/zeros.h>

#include "base/errors.h"

namespace ponte {
namespace {

bool ends_with(std::string_view text, std::string_view end) { return text.size() >= end.size() && text.substr(text.size() - end.size()) == end; }

DecayClass decay_class(const Rule& rule) {
  if (ends_with(rule.leaf, "q_layernorm.weight") || ends_with(rule.leaf, "k_layernorm.weight")) return DecayClass::qk_layernorm;
  return rule.shape.size() < 2 || ends_with(rule.leaf, "bias") ? DecayClass::not_decayed : DecayClass::decayed;
}

}  // namespace

void Parameter::set_value(at::Tensor whole) {
  value = std::move(whole);
  kept_value = {{0, value.size(0)}, value.detach()};
}

Parameters::Parameters(const RuleTable& table, const Shards& shards, const c10::TensorOptions& options) : table_(table), shards_(shards), options_(options) {
  for (const Rule& rule : table.rules) rules_.emplace(rule.name(), &rule);
}

Parameter& Parameters::get(const std::string& name) {
  Parameter* found = get_if_present(name);
  if (!found) table_.find(name);  // throws, naming the nearest
  PONTE_ASSERT(found);
  return *found;
}

Parameter* Parameters::get_if_present(const std::string& name) {
  if (const auto made = made_.find(name); made != made_.end()) return made->second;
  const auto rule = rules_.find(name);
  if (rule == rules_.end()) return nullptr;
  Parameter& p = parameters_.emplace_back();
  p.name = name;
  p.rule = rule->second;
  p.slice = slice_of(*p.rule, p.rule->expert >= 0 ? shards_.expert_tensor : shards_.tensor);
  const bool widen = p.rule->precision == Precision::fp32 && options_.dtype() != caffe2::TypeMeta::Make<double>();
  p.set_value(at::zeros(p.slice.shape, widen ? options_.dtype(at::kFloat) : options_).set_requires_grad(true));
  p.decay = decay_class(*p.rule);
  made_.emplace(name, &p);
  return &p;
}

void Parameters::check_complete(const std::function<bool(const Rule&)>& elsewhere) const {
  for (const auto& [name, rule] : rules_)
    if (!made_.contains(name) && !elsewhere(*rule)) throw_internal_error(("no layer holds the parameter " + name).c_str(), __FILE__, __LINE__);
}

at::Tensor& gradient_of(Parameter& parameter) {
  if (!parameter.main_grad.defined()) throw_internal_error(("backward before zero_gradients: " + parameter.name).c_str(), __FILE__, __LINE__);
  return parameter.main_grad;
}

}  // namespace ponte
