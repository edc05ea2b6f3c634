#include "kernels/swiglu.h"

#include "kernels/dispatch.h"

namespace ponte {

at::Tensor swiglu_reference(const at::Tensor& gate_up_SF2) {
  const auto parts = gate_up_SF2.to(accumulation_type(gate_up_SF2)).chunk(2, -1);
  return at::silu(parts[0]).mul_(parts[1]).to(gate_up_SF2.scalar_type());
}

at::Tensor swiglu_backward_reference(const at::Tensor& dy_SF, const at::Tensor& gate_up_SF2) {
  const auto wide = accumulation_type(gate_up_SF2);
  const auto parts = gate_up_SF2.to(wide).chunk(2, -1);
  const at::Tensor dy = dy_SF.to(wide), sigmoid = at::sigmoid(parts[0]);
  const at::Tensor out = at::empty(gate_up_SF2.sizes(), gate_up_SF2.options());
  const auto halves = out.chunk(2, -1);
  // dy up s (1 + gate (1 - s)) and dy gate s, in place: a card has no fused kernel for them, and every number between them is as wide as a layer's widest.
  at::Tensor product = (1 - sigmoid).mul_(parts[0]).add_(1);
  halves[0].copy_((dy * parts[1]).mul_(sigmoid).mul_(product));
  halves[1].copy_(at::mul_out(product, dy, parts[0]).mul_(sigmoid));
  return out;
}

at::Tensor swiglu(const at::Tensor& gate_up_SF2) {
  if (!has_vector_path(gate_up_SF2)) return swiglu_reference(gate_up_SF2);
  const at::Tensor x = gate_up_SF2.contiguous();
  const int64_t F = x.size(1) / 2;
  at::Tensor y = at::empty({x.size(0), F}, x.options());
  with_vector_type(x, [&]<class T>(T) {
    for_ranges(x.size(0), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().swiglu(end - begin, F, pointer<T>(x) + begin * 2 * F, pointer<T>(y) + begin * F);
    });
  });
  return y;
}

at::Tensor swiglu_backward(const at::Tensor& dy_SF, const at::Tensor& gate_up_SF2) {
  if (!has_vector_path(gate_up_SF2)) return swiglu_backward_reference(dy_SF, gate_up_SF2);
  const at::Tensor x = gate_up_SF2.contiguous(), dy = dy_SF.contiguous();
  const int64_t F = x.size(1) / 2;
  at::Tensor dx = at::empty_like(x);
  with_vector_type(x, [&]<class T>(T) {
    for_ranges(x.size(0), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().swiglu_backward(end - begin, F, pointer<T>(dy) + begin * F, pointer<T>(x) + begin * 2 * F, pointer<T>(dx) + begin * 2 * F);
    });
  });
  return dx;
}

}  // namespace ponte
