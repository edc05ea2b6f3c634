#include "nn/gated_delta_parts.h"

#include <ATen/ATen.h>

#include "nn/parameters.h"

namespace ponte {
namespace {

void append(std::vector<int64_t>& out, int64_t first, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out.push_back(first + i);
}

std::vector<int64_t> rows_of_value_heads(const GatedDeltaLayout& l, KeyHeads heads) {
  const int64_t each = l.value_heads / l.key_heads;
  std::vector<int64_t> out;
  append(out, heads.first * each, heads.count * each);
  return out;
}

std::vector<int64_t> channels_of(const GatedDeltaLayout& l, KeyHeads heads) {
  const int64_t keys = l.key_heads * l.key_dim, each = l.value_heads / l.key_heads * l.value_dim;
  std::vector<int64_t> out;
  append(out, heads.first * l.key_dim, heads.count * l.key_dim);
  append(out, keys + heads.first * l.key_dim, heads.count * l.key_dim);
  append(out, 2 * keys + heads.first * each, heads.count * each);
  return out;
}

at::Tensor gradient_for(const HeadParameter& p) {
  if (!p.parameter->value.requires_grad()) return {};
  at::Tensor& whole = gradient_of(*p.parameter);
  return p.rows.defined() ? at::zeros_like(whole.index_select(0, p.rows)) : whole;
}

}  // namespace

ProjectedParts::ProjectedParts(const at::Tensor& projected_SW, const GatedDeltaLayout& l) {
  int64_t at = 0;
  for (const auto& [part, width] : {std::pair{&qkv, l.channels()}, {&z, l.value_width()}, {&beta, l.value_heads}, {&alpha, l.value_heads}}) {
    *part = projected_SW.narrow(1, at, width);
    at += width;
  }
}

std::vector<int64_t> columns_of(const GatedDeltaLayout& l, KeyHeads heads) {
  const int64_t each = l.value_heads / l.key_heads;
  std::vector<int64_t> out = channels_of(l, heads);
  append(out, l.channels() + heads.first * each * l.value_dim, heads.count * each * l.value_dim);
  const int64_t gates = l.channels() + l.value_width();
  for (const int64_t gate : {gates, gates + l.value_heads}) append(out, gate + heads.first * each, heads.count * each);
  return out;
}

at::Tensor HeadParameter::value() const {
  const at::Tensor whole = parameter->value.detach();
  return rows.defined() ? whole.index_select(0, rows) : whole;
}

HeadParameters::HeadParameters(const GatedDeltaNet& layer, KeyHeads heads)
    : layout{heads.count, heads.count * (layer.layout.value_heads / layer.layout.key_heads), layer.layout.key_dim, layer.layout.value_dim},
      conv1d{layer.conv1d, {}}, A_log{layer.A_log, {}}, dt_bias{layer.dt_bias, {}}, out_norm{layer.out_norm, {}} {
  if (heads.count == layer.layout.key_heads) return;
  const auto rows = [&](const std::vector<int64_t>& list) { return at::tensor(list, at::kLong).to(layer.conv1d->value.device()); };
  conv1d.rows = rows(channels_of(layer.layout, heads));
  A_log.rows = dt_bias.rows = rows(rows_of_value_heads(layer.layout, heads));
}

HeadGradients::HeadGradients(const HeadParameters& p)
    : conv1d(gradient_for(p.conv1d)), A_log(gradient_for(p.A_log)), dt_bias(gradient_for(p.dt_bias)), out_norm(gradient_for(p.out_norm)), parameters_(p) {}

void HeadGradients::add() {
  for (const auto& [from, to] : {std::pair{&conv1d, &parameters_.conv1d}, {&A_log, &parameters_.A_log}, {&dt_bias, &parameters_.dt_bias}})
    if (from->defined() && to->rows.defined()) gradient_of(*to->parameter).index_add_(0, to->rows, *from);
}

}  // namespace ponte
