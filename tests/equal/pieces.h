// Parameters cut over ranks against whole ones: which part of the whole a shard is, and values that do not depend on how it is cut.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "base/hash.h"
#include "families/rule.h"
#include "model/model.h"

namespace ponte {

// Calls body(part of the whole, part of the shard) for every stretch this rank holds.
template <class Body>
void for_pieces(const Parameter& p, const at::Tensor& whole, const at::Tensor& local, Body body) {
  int64_t first_row = 0;
  for (size_t s = 0; s < p.slice.segments.size(); ++s) {
    const Segment& segment = p.rule->segments[s];
    const int64_t dim = std::max<int64_t>(segment.shard_dim, 0);
    int64_t at = dim == 0 ? p.slice.segments[s].offset : 0;
    for (const Interval& i : p.slice.segments[s].intervals) {
      const int64_t rows = i.end - i.begin;
      body(whole.narrow(0, first_row, segment.shape[0]).narrow(dim, i.begin, rows), local.narrow(dim, at, rows));
      at += rows;
    }
    first_row += segment.shape[0];
  }
}

// Gated delta nets amplify rounding where weights are large, so hybrid models get small ones.
inline bool is_hybrid(const ModelConfig& c) { return !c.experimental_attention_variant.empty(); }

// fp64, of values that fp32 has.
inline at::Tensor random_whole(const Parameter& p, const ModelConfig& config) {
  const at::Generator generator = at::detail::createCPUGenerator(xxh3_64(std::as_bytes(std::span(p.name))));
  const at::Tensor noise = at::normal(0.0, is_hybrid(config) ? 0.1 : 0.3, p.rule->shape, generator, at::kDouble, at::kStrided, at::kCPU, false);
  const auto is = [&p](const char* part) { return p.name.find(part) != std::string::npos; };
  const bool around_zero = p.rule->shape.size() > 1 || is("bias") || (config.layernorm_zero_centered_gamma && !is("out_norm"));
  return (around_zero ? noise : noise + 1).to(at::kFloat).to(at::kDouble);
}

inline void fill(std::span<Parameter* const> parameters, const ModelConfig& config) {
  at::NoGradGuard off;
  for (Parameter* p : parameters)
    for_pieces(*p, random_whole(*p, config), p->value, [](const at::Tensor& from, const at::Tensor& to) { to.copy_(from); });
}

inline double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / (b.to(at::kDouble).norm() + 1e-300)).item<double>();
}

}  // namespace ponte
