#include "kernels/gate_heads.h"

#include <ATen/ATen.h>

#include "kernels/dispatch.h"

namespace ponte {
namespace {

// [S, groups, queries_per_group, D], a view.
at::Tensor gates_of(const at::Tensor& qkv_SW, const HeadLayout& l) {
  return qkv_SW.view({qkv_SW.size(0), l.groups, l.group_heads(), l.head_dim}).narrow(2, l.queries_per_group, l.queries_per_group);
}

at::Tensor by_group(const at::Tensor& t_SV, const HeadLayout& l) {
  return t_SV.to(accumulation_type(t_SV)).view({t_SV.size(0), l.groups, l.queries_per_group, l.head_dim});
}

QkvShape shape_of(const at::Tensor& qkv, const HeadLayout& l) { return {qkv.size(0), l.groups, l.queries_per_group, l.head_dim, 0, l.gates()}; }

}  // namespace

at::Tensor gate_heads_reference(const at::Tensor& out_SV, const at::Tensor& qkv_SW, const HeadLayout& layout) {
  const at::Tensor out = by_group(out_SV, layout);
  return (out * at::sigmoid(gates_of(qkv_SW, layout).to(out.scalar_type()))).view(out_SV.sizes()).to(out_SV.scalar_type());
}

at::Tensor gate_heads_backward_reference(const at::Tensor& dy_SV, const at::Tensor& out_SV, const at::Tensor& qkv_SW, const HeadLayout& layout,
                                         at::Tensor& dqkv_SW) {
  const at::Tensor out = by_group(out_SV, layout), dy = by_group(dy_SV, layout), open = at::sigmoid(gates_of(qkv_SW, layout).to(out.scalar_type()));
  gates_of(dqkv_SW, layout).copy_(dy * out * open * (1 - open));
  return (dy * open).view(out_SV.sizes()).to(out_SV.scalar_type());
}

at::Tensor gate_heads(const at::Tensor& out_SV, const at::Tensor& qkv_SW, const HeadLayout& layout) {
  if (!has_vector_path(out_SV)) return gate_heads_reference(out_SV, qkv_SW, layout);
  const at::Tensor out = out_SV.contiguous(), qkv = qkv_SW.contiguous();
  at::Tensor y = at::empty_like(out);
  with_vector_type(out, [&]<class T>(T) {
    for_ranges(out.size(0), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().gate_heads(begin, end, shape_of(qkv, layout), pointer<T>(qkv), pointer<T>(out), pointer<T>(y));
    });
  });
  return y;
}

at::Tensor gate_heads_backward(const at::Tensor& dy_SV, const at::Tensor& out_SV, const at::Tensor& qkv_SW, const HeadLayout& layout, at::Tensor& dqkv_SW) {
  if (!has_vector_path(out_SV)) return gate_heads_backward_reference(dy_SV, out_SV, qkv_SW, layout, dqkv_SW);
  const at::Tensor out = out_SV.contiguous(), dy = dy_SV.contiguous(), qkv = qkv_SW.contiguous();
  at::Tensor dout = at::empty_like(out);
  with_vector_type(out, [&]<class T>(T) {
    for_ranges(out.size(0), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().gate_heads_backward(begin, end, shape_of(qkv, layout), pointer<T>(qkv), pointer<T>(out), pointer<T>(dy), pointer<T>(dout),
                                              pointer<T>(dqkv_SW));
    });
  });
  return dout;
}

}  // namespace ponte
