// What the tests of tensor parallelism share: two micro-batches of a step, and the results put together from every rank.
#pragma once
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "comm/thread_group.h"
#include "equal/pieces.h"
#include "models.h"

namespace ponte {

inline Batch random_batch(int64_t vocabulary) {
  const at::Generator generator = at::detail::createCPUGenerator(3);
  Batch batch;
  batch.tokens_BT = at::randint(0, vocabulary, {2, 36}, generator, at::kLong);
  batch.labels_BT = at::randint(0, vocabulary, {2, 36}, generator, at::kLong);
  batch.loss_mask_BT = at::randint(0, 3, {2, 36}, generator, at::kFloat) / 2;  // uneven weights, zeros among them
  batch.document_starts_BT = at::arange(36).div(15, "floor").mul(15).unsqueeze(0).expand({2, 36}).contiguous();
  return batch;
}

struct Outcome {
  double loss = 0;
  at::Tensor logits;
  std::map<std::string, at::Tensor> gradients;  // whole
};

// Two micro-batches, so that accumulation is part of it.
inline void run(Model& model, const Batch& batch, Outcome& out, std::mutex& mutex) {
  fill(model.parameters(), model.config());
  model.zero_gradients();
  double loss = 0;
  for (int i = 0; i < 2; ++i) {
    const LossSum sum = model.forward_loss(batch, 0.01 * (i + 1));
    sum.scaled.backward();
    loss += sum.sum.item<double>();
  }
  model.reduce_gradients();
  const at::Tensor logits = model.logits(batch);
  std::lock_guard lock(mutex);
  out.loss = loss;
  out.logits = logits;
  for (Parameter* p : model.parameters()) {
    at::Tensor& whole = out.gradients[p->name];
    if (!whole.defined()) whole = at::full(p->rule->shape, NAN, at::kDouble);
    for_pieces(*p, whole, p->main_grad, [&](const at::Tensor& to, const at::Tensor& from) {
      const at::Tensor value = from.to(at::kDouble);
      if (to.isnan().logical_not().any().item<bool>()) {
        EXPECT_TRUE(at::equal(to, value)) << p->name << ": ranks that share rows disagree";
      }
      to.copy_(value);
    });
    const Slice& slice = p->slice;
    if (slice.segments[0].padding > 0) {
      EXPECT_EQ(p->main_grad.narrow(0, slice.shape[0] - slice.segments[0].padding, slice.segments[0].padding).abs().sum().item<double>(), 0) << p->name;
    }
  }
}

// Loss, logits and every gradient over `ranks` tensor-parallel ranks (threads) equal those on one without sequence parallelism and recompute, norm-relative
// per tensor: 1e-12 in fp64, 1e-5 in fp32.
inline void expect_tensor_parallel_equality(const ModelConfig& sharded, int64_t ranks) {
  ModelConfig alone = sharded;
  alone.sequence_parallel = false;
  alone.recompute_granularity = "";
  const Batch batch = random_batch(alone.vocab_size);
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kFloat, 1e-5}, {at::kDouble, 1e-12}}) {
    ModelOptions options;
    options.dtype = type;
    std::mutex mutex;
    Outcome one, many;
    Model model(alone, single_groups(), options);
    run(model, batch, one, mutex);
    run_tensor_parallel(ranks, [&](const Groups& groups) {
      Model shard(sharded, groups, options);
      run(shard, batch, many, mutex);
    });
    EXPECT_NEAR(many.loss, one.loss, tolerance * std::abs(one.loss));
    EXPECT_LE(distance(many.logits, one.logits), tolerance);
    ASSERT_EQ(many.gradients.size(), one.gradients.size());
    for (const auto& [name, gradient] : one.gradients)
      EXPECT_LE(distance(many.gradients.at(name), gradient), tolerance) << name << " " << at::toString(type);
  }
}

}  // namespace ponte
