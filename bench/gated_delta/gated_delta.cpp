// gated_delta_bench [tokens ...]: time and memory of the gated delta rule's forward and backward by sequence length (1024 to 65536 unless told), one
// sequence, 8 key heads, 16 value heads, dims 64 (the layer of bench/train_step's qwen3_next); and of what surrounds it. Memory: the process's peak
// above what it held before, each length in a process of its own.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/causal_conv1d.h"
#include "kernels/gated_delta.h"
#include "kernels/gated_rms_norm.h"

namespace ponte {
namespace {

double seconds(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double peak_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

void measure(int64_t T) {
  constexpr int64_t K = 8, N = 16, D = 64, C = 2 * K * D + N * D, V = N * D, width = C + V + 2 * N;
  at::manual_seed(1);
  const at::Tensor projected = at::randn({T, width}), weight = at::randn({C, 1, 4}), norm = at::zeros({D}), dy = at::randn({T, V});
  const at::Tensor A_log = at::log(at::rand({N}) * 15 + 1), dt_bias = at::ones({N}), dprojected = at::empty_like(projected);
  const ConvolutionInputs convolution{1, T, projected.narrow(1, 0, C), weight, {}, {}};
  const at::Tensor z = projected.narrow(1, C, V);
  at::Tensor dweight = at::zeros_like(weight), dnorm = at::zeros_like(norm);
  const auto inputs = [&](const at::Tensor& convolved) {
    return GatedDeltaInputs{1, T, K, D, D, convolved, projected.narrow(1, C + V, N), projected.narrow(1, C + V + N, N), A_log, dt_bias, {}, {}};
  };
  const double before = peak_mb();
  at::Tensor convolved, out, dout;
  GatedNormResult y;
  GatedDeltaGradients d{at::empty({T, C}), dprojected.narrow(1, C + V, N), dprojected.narrow(1, C + V + N, N), at::zeros({N}), at::zeros({N})};
  const double forward_convolution = seconds([&] { convolved = causal_conv1d(convolution); });
  const double forward_rule = seconds([&] { out = gated_delta(inputs(convolved)).out_SV; });
  const double forward_norm = seconds([&] { y = gated_rms_norm(out, z, norm, {1e-6, 1}); });
  const double backward_norm = seconds([&] { dout = gated_rms_norm_backward(dy, out, z, norm, y.rstd_SN, {1e-6, 1}, dprojected.narrow(1, C, V), dnorm); });
  const double backward_rule = seconds([&] { gated_delta_backward(dout, inputs(convolved), d); });
  const double backward_convolution = seconds([&] { causal_conv1d_backward(d.dqkv_SC, convolution, dprojected.narrow(1, 0, C), dweight); });
  const double memory = peak_mb() - before;
  std::printf("%7ld tokens: rule %7.1f + %7.1f ms, convolution %6.1f + %6.1f, gated norm %6.1f + %6.1f; %8.1f MB, %.2f KB a token\n", static_cast<long>(T),
              forward_rule * 1e3, backward_rule * 1e3, forward_convolution * 1e3, backward_convolution * 1e3, forward_norm * 1e3, backward_norm * 1e3, memory,
              memory * 1024 / static_cast<double>(T));
}

}  // namespace
}  // namespace ponte

int main(int count, char** arguments) {
  std::vector<int64_t> lengths;
  for (int i = 1; i < count; ++i) lengths.push_back(std::stoll(arguments[i]));
  if (lengths.empty()) lengths = {1024, 2048, 4096, 8192, 16384, 32768, 65536};
  std::printf("forward + backward of one layer's linear attention, %d threads\n", at::get_num_threads());
  std::fflush(stdout);
  for (const int64_t T : lengths) {
    if (fork() == 0) {
      ponte::measure(512);  // threads and micro-kernels are made here
      ponte::measure(T);
      return 0;
    }
    wait(nullptr);
  }
}
