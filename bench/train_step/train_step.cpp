// train_step_bench [fp32|bf16] [steps] [train|decode] [qwen3|qwen3_moe|qwen3_next]: time of a training step (forward, backward, clipping,
// AdamW), or of greedy decoding, on the
// model of bench/train_step/compare.py: Qwen3 with hidden 512, 8 layers, 8 heads, 4 groups, ffn 1536, vocabulary 32000; batch 4 x 512. qwen3_moe: 32
// experts of 384 in place of the ffn, four for each token. qwen3_next: those and a shared one, three layers of four with linear attention of 8 key and 16
// value heads of 64.
#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <string>

#include "kernels/memory.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "models.h"
#include "optim/adamw.h"

namespace ponte {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

ModelConfig bench_config(const std::string& kind) {
  const ModelConfig dense =
      models::qwen3({.layers = 8, .hidden = 512, .ffn = 1536, .heads = 8, .groups = 4, .head_dim = 64, .vocabulary = 32000, .positions = 4096});
  if (kind == "qwen3") return dense;
  const ModelConfig sparse = models::with_experts(dense, {.count = 32, .chosen = 4, .ffn = 384, .balancing = 0.001});
  if (kind == "qwen3_moe") return sparse;
  return models::with_linear_attention(models::with_shared_expert(sparse, 384),
                                       {.key_heads = 8, .value_heads = 16, .key_dim = 64, .value_dim = 64, .frequency = 4});
}

void report(const char* what, std::vector<double> times, double scale, const char* unit) {
  std::sort(times.begin(), times.end());
  std::printf("%s min %.4f median %.4f s (%.1f %s)\n", what, times.front(), times[times.size() / 2], scale / times[times.size() / 2], unit);
}

void train(Model& model, int steps) {
  at::manual_seed(1);
  Batch batch;
  batch.tokens_BT = at::randint(3, 32000, {4, 512}, at::kLong);
  batch.labels_BT = batch.tokens_BT.roll(-1, 1);
  AdamW optimizer(model.parameters(), {});
  std::vector<double> times, forward, backward, update;
  std::clock_t processor = 0;
  for (int i = 0; i < steps + 2; ++i) {
    if (i == 2) processor = std::clock();
    const auto start = Clock::now();
    model.zero_gradients();
    const LossSum loss = model.forward_loss(batch, 1.0 / 2048);
    const double f = seconds_since(start);
    loss.scaled.backward();
    model.reduce_gradients();
    const double b = seconds_since(start);
    const double norm = optimizer.measure(1.0, AdamW::Zeros::not_counted).norm;
    optimizer.step(1e-4, 0.1, std::min(1.0, 1.0 / norm));
    if (i < 2) continue;
    times.push_back(seconds_since(start));
    forward.push_back(f), backward.push_back(b - f), update.push_back(times.back() - b);
  }
  std::printf("processor seconds a step: %.3f\n", static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC / steps);
  report("step", times, 2048, "tokens/s");
  report("  forward (with the output layer's gradients)", forward, 2048, "tokens/s");
  report("  backward", backward, 2048, "tokens/s");
  report("  clipping and AdamW", update, 2048, "tokens/s");
}

void decode(Model& model, int repeats) {
  at::manual_seed(1);
  const at::Tensor prompt = at::randint(3, 32000, {1, 128}, at::kLong);
  std::vector<double> times, prefill;
  std::clock_t processor = 0;
  for (int i = 0; i < repeats + 1; ++i) {
    if (i == 1) processor = std::clock();
    KvCache cache(model, 1, 256);
    const auto start = Clock::now();
    at::Tensor next = model.forward(prompt, cache).argmax(-1, true);
    const double p = seconds_since(start);
    for (int t = 1; t < 128; ++t) next = model.forward(next, cache).argmax(-1, true);
    if (i == 0) continue;
    times.push_back(seconds_since(start)), prefill.push_back(p);
  }
  std::printf("processor seconds a run: %.3f\n", static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC / repeats);
  report("prompt of 128 and 128 new tokens", times, 128, "tokens/s");
  report("  prompt", prefill, 128, "tokens/s");
}

}  // namespace
}  // namespace ponte

int main(int count, char** arguments) {
  ponte::keep_freed_memory();
  const std::string type = count > 1 ? arguments[1] : "fp32", what = count > 3 ? arguments[3] : "train";
  ponte::ModelOptions options;
  options.dtype = type == "bf16" ? at::kBFloat16 : at::kFloat;
  ponte::Model model(ponte::bench_config(count > 4 ? arguments[4] : "qwen3"), ponte::single_groups(), options);
  model.initialize(1);
  what == "decode" ? ponte::decode(model, count > 2 ? std::stoi(arguments[2]) : 5) : ponte::train(model, count > 2 ? std::stoi(arguments[2]) : 5);
}
