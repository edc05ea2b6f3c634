// What the ways to run a gated delta net share: a projected row taken apart, and the parameters of some of its heads with the way their gradients go.
#pragma once
#include "nn/gated_delta_net.h"

namespace ponte {

// The parts of projected rows, as views.
struct ProjectedParts {
  at::Tensor qkv, z, beta, alpha;
  ProjectedParts(const at::Tensor& projected_SW, const GatedDeltaLayout& layout);
};

// Columns of a projected row that belong to some key heads, part by part: a projected row of a layer of those heads.
std::vector<int64_t> columns_of(const GatedDeltaLayout& layout, KeyHeads heads);

// A parameter's rows of some heads; `rows` undefined: all of them.
struct HeadParameter {
  Parameter* parameter;
  at::Tensor rows;
  at::Tensor value() const;
};

struct HeadParameters {
  GatedDeltaLayout layout;  // of these heads
  HeadParameter conv1d, A_log, dt_bias, out_norm;
  HeadParameters(const GatedDeltaNet& layer, KeyHeads heads);
};

// Where kernels add gradients; undefined where none is wanted. add() takes to the parameters what did not go there at once.
struct HeadGradients {
  explicit HeadGradients(const HeadParameters& parameters);
  void add();
  at::Tensor conv1d, A_log, dt_bias, out_norm;

 private:
  const HeadParameters& parameters_;
};

}  // namespace ponte
