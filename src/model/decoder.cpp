#include "model/decoder.h"

#include "nn/recompute.h"

namespace ponte {

at::Tensor Decoder::operator()(const at::Tensor& x_SH, const Sequence& sequence) const {
  at::Tensor x = x_SH;
  const auto run = [this, sequence](int64_t first, int64_t count, at::Tensor v) {
    for (int64_t i = first; i < first + count; ++i) v = run_in_unit(*units[i], [&](const at::Tensor& u) { return layers[i](u, sequence); }, v);
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
