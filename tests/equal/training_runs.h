// What the equality tests share: tiny models, the data of three steps, one training run of them over any mesh (ranks as threads), and the
// comparison of two runs.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "comm/group.h"
#include "config/model_config.h"
#include "layout/mesh.h"
#include "parallel/data_parallel.h"
#include "parallel/rank_model.h"

namespace ponte::equality {

// How weights follow gradients. AdamW clips by the norm over all ranks.
enum class Update { sgd, adamw };

enum class Kind { dense_tied, dense_untied, experts, hybrid };

// What stands in the batches. Accumulation is always part of it where a replica has more than one micro-batch.
struct Data {
  bool uneven = true;   // micro-batches with different numbers of valid tokens, one row without any
  bool packed = true;   // documents inside rows
  bool padded = false;  // padding at the end of rows
  int64_t micro_batches = 4;  // of a step, over all replicas
  Update update = Update::sgd;
};

struct Layout {
  MeshSizes mesh;
  ModelConfig config;  // parallel sizes included
  DataParallel::Settings replicas = {};
};

// A configuration of the kind, on one rank.
ModelConfig tiny(Kind kind);

struct Outcome {
  std::vector<double> losses, valid_tokens, norms;                // by step
  std::vector<std::vector<double>> reports;                       // by step: loads of experts, losses of routers and prediction layers
  std::map<std::string, at::Tensor> gradients, weights;           // whole: the first step's gradients, the weights after the last
  std::vector<std::string> disagreements;                         // of ranks that should hold the same numbers
};

// Three steps. Throws what a rank throws. alter: what each rank does to its groups first (mutation tests break them).
Outcome train(const Layout& layout, const Data& data, at::ScalarType type, const std::function<void(Groups&)>& alter = {});

// What differs by more than the tolerance, norm-relative per tensor; empty: the two runs are equal.
std::vector<std::string> differences(const Outcome& many, const Outcome& one, double tolerance);

}  // namespace ponte::equality
