// decode_passes_bench [rounds]: what a token, a pair of tokens and a guess of the prediction layer cost, in turns in one process, on the shapes of
// bench/decode/guess.py with random weights in bf16; milliseconds of the calling thread's processor time, so run it with OMP_NUM_THREADS=1.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>

#include "model/speculation.h"
#include "models.h"

namespace ponte {
namespace {

ModelConfig bench_config(bool sparse) {
  ModelConfig c = models::qwen3({.layers = 8, .hidden = 512, .ffn = 1536, .heads = 8, .groups = 4, .head_dim = 64, .vocabulary = 8192, .positions = 4096});
  if (sparse) c = models::with_shared_expert(models::with_experts(c, {.count = 16, .chosen = 4, .ffn = 256, .balancing = 0}), 256);
  c = models::with_linear_attention(c, {.key_heads = 8, .value_heads = 16, .key_dim = 64, .value_dim = 64, .frequency = 4});
  c.mtp_num_layers = 1;
  return c;
}

double now_ms() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}
template <class Body>
void timed(std::vector<double>& times, Body body) {
  const double start = now_ms();
  body();
  times.push_back(now_ms() - start);
}
double median(std::vector<double>& times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void measure(bool sparse, int rounds) {
  Model model(bench_config(sparse), single_groups(), {.dtype = at::kBFloat16});
  model.initialize(1);
  at::manual_seed(1);
  const at::NoGradGuard no_gradients;
  const at::Tensor prompt = at::randint(8192, {1, 64}, at::kLong);
  const auto token = [] { return at::randint(8192, {1}, at::kLong).item<int64_t>(); };
  KvCache cache(model, 1, 4096);
  model.forward(prompt, cache);
  Speculation speculation(model, 1, 4096, 1);
  speculation.read(prompt, {64});
  speculation.keep({{0, 0}});
  std::vector<double> one, guess, pair, all, none;
  for (int i = 0; i < rounds; ++i) {
    const at::Tensor next = at::full({1, 1}, token(), at::kLong);
    timed(one, [&] { model.forward(next, cache); });
    timed(guess, [&] { speculation.guess({token()}); });
    timed(pair, [&] { speculation.check({token()}); });
    const int64_t kept = 1 + i % 2;
    timed(kept == 2 ? all : none, [&] { speculation.keep({{0, kept}}); });
  }
  const double each = median(one), round = median(guess) + median(pair) + median(all);
  std::printf("%s: token %.3f ms, pair %.3f (%.2f), guess %.3f (%.2f), both kept %.3f, one taken back %.3f; at most %.2f times as fast\n",
              sparse ? "experts" : "dense", each, median(pair), median(pair) / each, median(guess), median(guess) / each, median(all), median(none),
              2 * each / round);
}

}  // namespace
}  // namespace ponte

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::stoi(arguments[1]) : 300;
  for (const bool sparse : {false, true}) ponte::measure(sparse, rounds);
}
