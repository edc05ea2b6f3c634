// Filling parameters: seeded random values, or files through convert's weight source; and completing gradients over the ranks that share a model.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <cstring>

#include "base/errors.h"
#include "base/hash.h"
#include "convert/weight_source.h"
#include "kernels/device.h"
#include "layout/word_embeddings.h"
#include "model/state.h"

namespace ponte {
namespace {

DType dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return DType::f32;
    case at::kBFloat16: return DType::bf16;
    case at::kHalf: return DType::f16;
    default: fail("parameters of type {} cannot be read from files", at::toString(type));
  }
}

// This rank's shard of a whole parameter: intervals side by side in each segment, segments on dim 0, padding zero.
at::Tensor cut(const Parameter& p, const at::Tensor& whole) {
  at::Tensor out = at::zeros(p.slice.shape, whole.options());
  int64_t row = 0;  // of the whole, where the segment starts on dim 0
  for (size_t s = 0; s < p.slice.segments.size(); ++s) {
    const Segment& segment = p.rule->segments[s];
    const SegmentSlice& slice = p.slice.segments[s];
    const int64_t dim = segment.shard_dim == kReplicated ? 0 : segment.shard_dim;
    const at::Tensor from = whole.narrow(0, row, segment.shape[0]), to = out.narrow(0, slice.offset, slice.shape[0]);
    int64_t at = 0;
    for (const Interval& i : slice.intervals) {
      to.narrow(dim, at, i.end - i.begin).copy_(from.narrow(dim, i.begin, i.end - i.begin));
      at += i.end - i.begin;
    }
    row += segment.shape[0];
  }
  return out;
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// Megatron's defaults (transformer_config.py: init_method_normal, scaled_init_method_normal; gated_delta_net: decay rates of 1 to 16, steps of one, the
// convolution as torch.nn.Conv1d).
at::Tensor whole_initial(const Parameter& p, const ModelConfig& c, uint64_t seed) {
  const bool norm = contains(p.name, "layer_norm_weight") || contains(p.name, "norm.weight");
  if (norm) return at::full(p.rule->shape, c.layernorm_zero_centered_gamma ? 0.0 : 1.0);
  const at::Generator generator = at::detail::createCPUGenerator(xxh3_64(std::as_bytes(std::span(p.name))) ^ seed);
  const auto uniform = [&](double from, double to) { return at::empty(p.rule->shape, at::kFloat).uniform_(from, to, generator); };
  if (contains(p.name, "self_attention.A_log")) return at::log(uniform(1, 16));
  if (contains(p.name, "self_attention.dt_bias")) return at::ones(p.rule->shape);
  if (contains(p.name, "conv1d.weight"))
    return uniform(-1 / std::sqrt(static_cast<double>(p.rule->shape[2])), 1 / std::sqrt(static_cast<double>(p.rule->shape[2])));
  if (p.rule->shape.size() == 1) return at::zeros(p.rule->shape);
  const bool residual = contains(p.name, "linear_proj.weight") || contains(p.name, "linear_fc2.weight") || contains(p.name, "out_proj.weight");
  const double deviation = residual ? c.init_method_std / std::sqrt(2.0 * static_cast<double>(c.num_layers)) : c.init_method_std;
  return at::normal(0.0, deviation, p.rule->shape, generator, at::kFloat, at::kStrided, at::kCPU, false);
}

// Rows held by several ranks: each rank's local gradient is gathered and the sharers' are added. Shards of one parameter are laid out alike, and so is what
// is kept of them.
void sum_over_sharers(Parameter& p, Group& group) {
  const at::Tensor& kept = p.kept_gradient.tensor;
  const at::Tensor all = group.all_gather(kept.contiguous()).unflatten(0, {group.size(), kept.size(0)});
  for (size_t s = 0; s < p.slice.segments.size(); ++s) {
    const int64_t dim = std::max<int64_t>(p.rule->segments[s].shard_dim, 0);
    const Rows there = dim == 0 ? p.kept_gradient.rows : Rows{0, kept.size(dim)};
    int64_t at = dim == 0 ? p.slice.segments[s].offset : 0;
    for (const Interval& i : p.slice.segments[s].intervals) {
      const int64_t begin = std::max(at, there.begin) - there.begin, rows = std::min(at + i.end - i.begin, there.end) - there.begin - begin;
      if (i.sharers > 1 && rows > 0) kept.narrow(dim, begin, rows).copy_(all.narrow(0, i.first_sharer, i.sharers).narrow(dim + 1, begin, rows).sum(0));
      at += i.end - i.begin;
    }
  }
}

}  // namespace

void Model::initialize(uint64_t seed) {
  at::NoGradGuard off;
  for (Parameter* p : state_->in_order) {
    const auto& [rows, tensor] = p->kept_value;
    tensor.copy_(cut(*p, whole_initial(*p, state_->config, seed)).narrow(0, rows.begin, rows.count()));
  }
}

void Model::load(const WeightSource& source) {
  at::NoGradGuard off;
  const auto& parameters = state_->in_order;
  for_each_staged(static_cast<int64_t>(parameters.size()), state_->options.device, [&](int64_t i, StagingBuffer& buffer) {
    const Parameter& p = *parameters[static_cast<size_t>(i)];
    const auto& [kept, value] = p.kept_value;
    if (contains(p.name, "router.expert_bias") && !source.config().moe_router_enable_expert_bias) {  // a run adds it to a model that came without
      value.zero_();
      return;
    }
    // Files hold at most fp32: an fp64 model (tests) widens it.
    const auto type = value.scalar_type() == at::kDouble ? at::kFloat : value.scalar_type();
    const Rule& rule = source.rules().find(p.name);
    require(rule.shape == p.rule->shape, "{}: shape {} in the source, wanted {}", p.name, rule.shape, p.rule->shape);
    if (kept.count() == 0) return;
    buffer.fill(value, type, [&, begin = kept.begin](int64_t first, int64_t rows, std::span<std::byte> out) {
      const bool whole = rows == p.slice.shape[0];
      source.read(rule, whole ? p.slice : rows_of(p.slice, {begin + first, begin + first + rows}), out, dtype_of(type));
    });
  });
}

void Model::reduce_gradients() {
  at::NoGradGuard off;
  for (Parameter* p : state_->in_order) {
    Group& group = p->rule->expert >= 0 ? *state_->groups.expert_tensor : *state_->groups.tensor;
    if (!p->kept_gradient.tensor.defined() || p->kept_gradient.rows.count() == 0) continue;
    if (p->slice.gradient == GradientReduction::sum_tensor_parallel) group.all_reduce(p->kept_gradient.tensor, ReduceOp::sum);
    if (p->slice.gradient == GradientReduction::sum_sharers) sum_over_sharers(*p, group);
  }
  // Word embeddings on two stages: the first has the lookup's gradient, the last the tied output layer's and the prediction layers'.
  if (state_->groups.embedding->size() == 1 || !has_two_embeddings(state_->config)) return;
  Parameter* words = find_parameter("embedding.word_embeddings.weight");
  if (words && words->kept_gradient.tensor.defined() && words->kept_gradient.rows.count() > 0)
    state_->groups.embedding->all_reduce(words->kept_gradient.tensor, ReduceOp::sum);
}

}  // namespace ponte
