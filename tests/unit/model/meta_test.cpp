// A training step and a generation step on the meta device, where tensors have shapes and no memory: whatever assumes that tensors lie in host memory, reads
// an element or waits for a device fails here. The batch lies in host memory, as on a card.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/meta_shapes.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "models.h"
#include "optim/adamw.h"

namespace ponte {
namespace {

ModelConfig dense() { return models::qwen3({.layers = 2, .hidden = 32, .ffn = 48, .heads = 4, .groups = 2, .head_dim = 16, .vocabulary = 97}); }

ModelConfig recomputed() {
  ModelConfig c = dense();
  c.recompute_granularity = "full";
  c.recompute_method = "uniform";
  c.recompute_num_layers = 1;
  return c;
}

ModelConfig sparse() {
  ModelConfig c = models::with_experts(dense(), {.count = 4, .chosen = 2, .ffn = 16, .balancing = 1e-2});
  c.moe_z_loss_coeff = 1e-3;
  c.moe_router_load_balancing_type = "aux_loss";
  return c;
}

ModelConfig sparse_by_sequence() {
  ModelConfig c = sparse();
  c.moe_router_load_balancing_type = "seq_aux_loss";
  return c;
}

ModelConfig hybrid_of(const ModelConfig& c) {
  return models::with_linear_attention(c, {.key_heads = 2, .value_heads = 4, .key_dim = 8, .value_dim = 12, .frequency = 2, .rotary_percent = 0.5});
}
ModelConfig hybrid() { return hybrid_of(dense()); }

ModelConfig with_prediction() {
  ModelConfig c = hybrid_of(models::with_shared_expert(sparse(), 16));
  c.moe_router_load_balancing_type = "global_aux_loss";
  c.mtp_num_layers = 1;
  return c;
}

struct Case {
  const char* name;
  ModelConfig (*config)();
  at::ScalarType type;
  bool documents;
  bool padding = false;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name << " " << at::toString(c.type); }

class OnMeta : public testing::TestWithParam<Case> {};

TEST_P(OnMeta, TrainsWithoutAnElementInHostMemory) {
  register_meta_shapes();
  const Case& c = GetParam();
  Model model(c.config(), single_groups(), {.device = at::kMeta, .dtype = c.type});
  model.initialize(1);
  AdamW optimizer(model.parameters(), {});
  optimizer.main_params_from_values();
  Batch batch;
  batch.tokens_BT = at::randint(0, 97, {2, 12}, at::kLong);
  batch.labels_BT = batch.tokens_BT.roll(-1, 1);
  batch.loss_mask_BT = at::ones({2, 12});
  if (c.documents) {
    batch.document_starts_BT = at::arange(12).div(5, "floor").mul(5).expand({2, 12}).contiguous();
    batch.position_ids_BT = at::arange(12).expand({2, 12}) - batch.document_starts_BT;
  }
  if (c.padding) batch.padding_BT = at::arange(12).ge(9).expand({2, 12}).contiguous();
  model.zero_gradients();
  const LossSum loss = model.forward_loss(batch, 1.0 / 24);
  EXPECT_TRUE(loss.sum.is_meta());
  EXPECT_EQ(loss.valid_tokens, 24);
  loss.scaled.backward();
  model.reduce_gradients();
  optimizer.step(1e-3, 0.1, 1.0);
  model.update_expert_biases();
  for (const Parameter* p : model.parameters()) EXPECT_TRUE(p->main_grad.is_meta()) << p->name;
}

TEST_P(OnMeta, GeneratesWithoutAnElementInHostMemory) {
  register_meta_shapes();
  const Case& c = GetParam();
  Model model(c.config(), single_groups(), {.device = at::kMeta, .dtype = c.type});
  KvCache cache(model, 2, 4);
  const std::vector<int64_t> counts = {3, 2};
  EXPECT_EQ(model.forward(at::zeros({2, 3}, at::kLong), cache, counts).sizes(), (std::vector<int64_t>{2, 97}));
  cache.make_room(9);
  EXPECT_TRUE(model.forward(at::zeros({2, 1}, at::kLong), cache).is_meta());
  cache.select_rows({1});
  EXPECT_EQ(cache.length(0), 3);
}

INSTANTIATE_TEST_SUITE_P(Models, OnMeta,
                         testing::Values(Case{"dense", dense, at::kBFloat16, false}, Case{"dense", dense, at::kFloat, true},
                                         Case{"recomputed", recomputed, at::kBFloat16, false}, Case{"sparse", sparse, at::kBFloat16, false},
                                         Case{"sparse by sequence", sparse_by_sequence, at::kFloat, false, true},
                                         Case{"with prediction", with_prediction, at::kBFloat16, false}, Case{"hybrid", hybrid, at::kBFloat16, true},
                                         Case{"hybrid", hybrid, at::kFloat, false}));

}  // namespace
}  // namespace ponte
