// A parameter: this rank's shard of a named tensor, with everything its owner outside the network needs: where its gradient lands, how
// it is reduced, whether weight decay applies, and its slice of the whole.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace ponte {

// Weight decay classes as Megatron's: 1-D tensors and biases are not decayed; apply_wd_to_qk_layernorm moves the q/k norms.
enum class DecayClass { decayed, not_decayed, qk_layernorm };

// What must happen to main_grad over the tensor-parallel group after backward, before the data-parallel reduction.
enum class GradientReduction {
  none,          // sharded, or already complete on every rank
  sum,           // each tensor rank holds a partial sum (replicated q/k norms over sharded heads; norms under sequence parallel)
  replica_sum,   // only segments shared by neighbouring ranks (replicated key/value heads) are partial; handled by Model::reduce_gradients
};

struct Parameter {
  std::string name;                    // Megatron's live name: "decoder.layers.0.self_attention.linear_qkv.weight"
  at::Tensor value;                    // this rank's shard; a leaf; requires_grad() says whether it is trained
  at::Tensor main_grad;                // fp32 (fp64 for fp64 values), value's shape; undefined until Model::zero_gradients()
  std::vector<int64_t> global_shape;   // of the whole tensor as stored in files (no vocabulary padding)
  DecayClass decay = DecayClass::decayed;
  GradientReduction reduction = GradientReduction::none;
};

}  // namespace ponte
