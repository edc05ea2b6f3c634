// What the equality tests share: models filled alike whatever their layout, two micro-batches of a step, and the results put together from every rank.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "base/hash.h"
#include "comm/thread_group.h"
#include "families/rule.h"
#include "model/model.h"

namespace ponte {

// Calls body(part of the whole, part of the shard) for every stretch this rank holds.
template <class Body>
void for_pieces(const Parameter& p, const at::Tensor& whole, const at::Tensor& local, Body body) {
  int64_t first_row = 0;
  for (size_t s = 0; s < p.slice.segments.size(); ++s) {
    const Segment& segment = p.rule->segments[s];
    const int64_t dim = std::max<int64_t>(segment.shard_dim, 0);
    int64_t at = dim == 0 ? p.slice.segments[s].offset : 0;
    for (const Interval& i : p.slice.segments[s].intervals) {
      const int64_t rows = i.end - i.begin;
      body(whole.narrow(0, first_row, segment.shape[0]).narrow(dim, i.begin, rows), local.narrow(dim, at, rows));
      at += rows;
    }
    first_row += segment.shape[0];
  }
}

inline at::Tensor random_whole(const Parameter& p, const ModelConfig& config) {
  const at::Generator generator = at::detail::createCPUGenerator(xxh3_64(std::as_bytes(std::span(p.name))));
  const at::Tensor noise = at::normal(0.0, 0.3, p.rule->shape, generator, at::kDouble, at::kStrided, at::kCPU, false);
  const auto is = [&p](const char* part) { return p.name.find(part) != std::string::npos; };
  const bool centred_on_zero = is("bias") || (config.layernorm_zero_centered_gamma && is("norm"));
  return p.rule->shape.size() == 1 && !centred_on_zero ? noise + 1 : noise;
}

inline void fill(Model& model) {
  at::NoGradGuard off;
  for (Parameter* p : model.parameters())
    for_pieces(*p, random_whole(*p, model.config()), p->value, [](const at::Tensor& from, const at::Tensor& to) { to.copy_(from); });
}

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
  fill(model);
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

inline double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / (b.to(at::kDouble).norm() + 1e-300)).item<double>();
}

// Loss, logits and every gradient of `sharded` over `ranks` tensor-parallel ranks (threads) equal those of `alone` on one, norm-relative per tensor: 1e-12
// in fp64, `single_tolerance` in fp32.
inline void expect_tensor_parallel_equality(const ModelConfig& alone, const ModelConfig& sharded, int64_t ranks, double single_tolerance = 1e-5) {
  const Batch batch = random_batch(alone.vocab_size);
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kFloat, single_tolerance}, {at::kDouble, 1e-12}}) {
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
