// A parameter: this rank's shard of a named tensor, with everything its owner outside the network needs: where its gradient lands, how
// it is reduced, whether weight decay applies, and its slice of the whole.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "layout/placement.h"

namespace ponte {

// Weight decay classes as Megatron's: 1-D tensors and biases are not decayed; apply_wd_to_qk_layernorm moves the q/k norms.
enum class DecayClass { decayed, not_decayed, qk_layernorm };

// Rows of a parameter, and the tensor that has them.
struct KeptRows {
  Rows rows;
  at::Tensor tensor;
};

struct Parameter {
  std::string name;                    // Megatron's live name: "decoder.layers.0.self_attention.linear_qkv.weight"
  const Rule* rule = nullptr;          // the whole parameter; owned by the model's rule table
  Slice slice;                         // what this rank holds; slice.gradient: how the kept gradient is completed (Model::reduce_gradients does it)
  at::Tensor value;                    // slice.shape; a leaf; requires_grad() says whether it is trained
  at::Tensor main_grad;                // fp32 (fp64 for fp64 values), value's shape; undefined until Model::zero_gradients()
  // What this rank keeps of both: all rows, but for those that parallel/data_parallel.h leaves to other replicas. Where not all of them are kept, value
  // and main_grad have memory only while their unit (nn/unit.h) is used. Whoever fills, updates or saves a parameter works on these.
  KeptRows kept_value, kept_gradient;
  // A value that is kept whole.
  void set_value(at::Tensor whole);
  DecayClass decay = DecayClass::decayed;
  // The word embeddings a last pipeline stage keeps for a tied output layer: equal to the first stage's, which counts in norms and is written to files.
  bool is_copy = false;
};

}  // namespace ponte
