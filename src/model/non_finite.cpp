// A forward pass that looks at the residual stream after every layer; for the message of a run that went wrong.
#include <ATen/ATen.h>

#include "base/errors.h"
#include "model/state.h"

namespace ponte {
namespace {

bool is_finite(const at::Tensor& t) { return at::isfinite(t).all().item<bool>(); }

}  // namespace

std::string Model::first_non_finite(const Batch& batch) {
  at::NoGradGuard off;
  const Stage& stage = state_->stage;
  if (!stage.embedding || !stage.loss || state_->groups.world->size() > 1)  // looking would need all ranks to look
    return format("decoder.layers.{} to {}", stage.first_layer, stage.first_layer + stage.layers - 1);
  const Sequence sequence = state_->sequence_of(batch);
  at::Tensor x_SH = state_->embedding(batch.tokens_BT.reshape({-1}).to(state_->options.device, /*non_blocking=*/true));
  if (!is_finite(x_SH)) return "embedding.word_embeddings";
  for (size_t i = 0; i < state_->decoder.layers.size(); ++i) {
    x_SH = state_->decoder.layers[i](x_SH, sequence);
    if (!is_finite(x_SH)) return format("decoder.layers.{}", i);
  }
  return is_finite(state_->final_norm(x_SH)) ? "output_layer" : "decoder.final_layernorm";
}

}  // namespace ponte
