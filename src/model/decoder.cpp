#include "model/decoder.h"

#include <algorithm>

#include "base/errors.h"
#include "nn/recompute.h"

namespace ponte {

std::vector<int64_t> recomputed_stretches(const ModelConfig& config, int64_t layers) {
  if (config.recompute_granularity != "full") return {};
  const int64_t n = config.recompute_num_layers;
  require(n >= 1, "model.recompute_num_layers: {}, wanted at least 1", n);
  if (config.recompute_method == "block") return std::vector<int64_t>(std::min(n, layers), 1);
  require(config.recompute_method == "uniform", "model.recompute_method: '{}', wanted uniform or block for full recompute", config.recompute_method);
  std::vector<int64_t> out;
  for (int64_t first = 0; first < layers; first += n) out.push_back(std::min(n, layers - first));
  return out;
}

at::Tensor Decoder::operator()(const at::Tensor& x_SH, const Sequence& sequence) const {
  at::Tensor x = x_SH;
  const auto run = [this, sequence](int64_t first, int64_t count, at::Tensor v) {
    for (int64_t i = first; i < first + count; ++i) v = layers[i](v, sequence);
    return v;
  };
  int64_t next = 0;
  for (const int64_t count : recomputed_stretches) {
    x = run_with_recompute([run, next, count](const at::Tensor& v) { return run(next, count, v); }, x);
    next += count;
  }
  return run(next, static_cast<int64_t>(layers.size()) - next, x);
}

}  // namespace ponte
