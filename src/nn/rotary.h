// Rotary position embedding: the angles of each position. Inverse frequencies are worked out in fp32 exactly as transformers does
// (modeling_rope_utils.py): plain, linear, dynamic NTK, YaRN (Peng et al. 2023) and llama3 scaling, with YaRN's attention factor.
#pragma once
#include <ATen/core/Tensor.h>

#include "config/model_config.h"

namespace ponte {

struct Angles {
  at::Tensor cos_SR, sin_SR;  // [S, rotary dims / 2]; fp32, attention factor included
};

class RotaryEmbedding {
 public:
  // UserError when the configuration names a scaling that does not exist.
  explicit RotaryEmbedding(const ModelConfig& config);
  // position_ids_S: int64, in host memory. The angles lie on `device`.
  Angles operator()(const at::Tensor& position_ids_S, const at::Device& device = at::kCPU) const;
  int64_t rotary_dims() const { return rotary_dims_; }
  // Whether a token's angles change with the tokens that come after it in the same pass (dynamic NTK).
  bool depends_on_length() const { return dynamic_; }

 private:
  at::Tensor dynamic_frequencies(int64_t length) const;
  at::Tensor inverse_frequencies_R_;
  double attention_factor_ = 1;
  int64_t rotary_dims_;
  bool dynamic_;
  double base_, factor_;
  int64_t trained_length_;
};

}  // namespace ponte
