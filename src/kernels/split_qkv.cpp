#include "kernels/split_qkv.h"

#include "kernels/dispatch.h"
#include "kernels/rms_norm.h"

namespace ponte {
namespace {

// x_BTND with cos, sin [B, T, 1, R/2]: the first R dims rotate. `direction` -1 undoes the rotation.
at::Tensor rotate(const at::Tensor& x_BTND, const at::Tensor& cos, const at::Tensor& sin, double direction) {
  const int64_t half = cos.size(-1), D = x_BTND.size(-1);
  const at::Tensor a = x_BTND.narrow(-1, 0, half), b = x_BTND.narrow(-1, half, half), s = sin * direction;
  return at::cat({a * cos - b * s, b * cos + a * s, x_BTND.narrow(-1, 2 * half, D - 2 * half)}, -1);
}

struct Angles {
  at::Tensor cos, sin;
};
Angles angles(const QkvInputs& in, at::ScalarType wide) {
  const auto shaped = [&](const at::Tensor& t) { return t.to(wide).view({in.B, in.T, 1, t.size(-1)}); };
  return {shaped(in.cos_SR), shaped(in.sin_SR)};
}

template <class T>
QkNorm<T> norms_of(const QkvInputs& in) {
  return {pointer<T>(in.query_norm_D), pointer<T>(in.key_norm_D), static_cast<float>(in.epsilon), static_cast<float>(in.offset)};
}

QkvShape shape_of(const QkvInputs& in) {
  return {in.T, in.layout.groups, in.layout.queries_per_group, in.layout.head_dim, 2 * in.cos_SR.size(-1), in.layout.gates()};
}

bool vector_path(const at::Tensor& qkv, const QkvInputs& in) { return has_vector_path(qkv) && in.layout.head_dim <= 1024; }

}  // namespace

QkvResult split_qkv_reference(const at::Tensor& qkv_SW, const QkvInputs& in) {
  const auto wide = accumulation_type(qkv_SW);
  const int64_t q = in.layout.queries_per_group, D = in.layout.head_dim;
  const at::Tensor packed = qkv_SW.view({in.B, in.T, in.layout.groups, in.layout.group_heads(), D});
  const auto [cos, sin] = angles(in, wide);
  std::vector<at::Tensor> rstds;
  const auto head = [&](int64_t from, int64_t count, const at::Tensor& weight) {
    at::Tensor x = packed.narrow(3, from, count).to(wide);
    if (weight.defined()) {
      const auto normed = rms_norm_reference(x.reshape({-1, D}), weight.to(wide), {in.epsilon, in.offset});
      rstds.push_back(normed.rstd_S.view({in.B * in.T, in.layout.groups, count}));
      x = normed.y_SH.view(x.sizes());
    }
    return rotate(x.reshape({in.B, in.T, -1, D}), cos, sin, 1).transpose(1, 2).contiguous().to(qkv_SW.scalar_type());
  };
  QkvResult result;
  result.q_BNTD = head(0, q, in.query_norm_D);
  result.k_BGTD = head(q + in.layout.gates(), 1, in.key_norm_D);
  result.v_BGTD = packed.select(3, q + in.layout.gates() + 1).transpose(1, 2).contiguous();
  if (!rstds.empty()) result.rstd = at::cat(rstds, -1).view({in.B * in.T, -1});
  return result;
}

at::Tensor split_qkv_backward_reference(const at::Tensor& qkv_SW, const QkvInputs& in, const at::Tensor& dq_BNTD, const at::Tensor& dk_BGTD,
                                        const at::Tensor& dv_BGTD, const at::Tensor& rstd, at::Tensor& query_gradient_D, at::Tensor& key_gradient_D) {
  const auto wide = accumulation_type(qkv_SW);
  const int64_t q = in.layout.queries_per_group, D = in.layout.head_dim, groups = in.layout.groups;
  const at::Tensor packed = qkv_SW.view({in.B, in.T, groups, in.layout.group_heads(), D});
  const auto [cos, sin] = angles(in, wide);
  const auto head = [&](int64_t from, int64_t first_rstd, int64_t count, const at::Tensor& dy, const at::Tensor& weight, at::Tensor& gradient) {
    at::Tensor d = rotate(dy.transpose(1, 2).to(wide), cos, sin, -1).reshape({in.B, in.T, groups, count, D});
    if (!weight.defined()) return d;
    const at::Tensor scale = rstd.view({in.B * in.T, groups, q + 1}).narrow(2, first_rstd, count).reshape({-1});
    return rms_norm_backward_reference(d.reshape({-1, D}), packed.narrow(3, from, count).to(wide).reshape({-1, D}), weight.to(wide), scale,
                                       {in.epsilon, in.offset}, gradient)
        .view(d.sizes());
  };
  const at::Tensor dq = head(0, 0, q, dq_BNTD, in.query_norm_D, query_gradient_D);
  const at::Tensor dk = head(q + in.layout.gates(), q, 1, dk_BGTD, in.key_norm_D, key_gradient_D);
  const at::Tensor dv = dv_BGTD.transpose(1, 2).unsqueeze(3).to(wide);
  const at::Tensor dgates = dq.new_zeros({in.B, in.T, groups, in.layout.gates(), D});
  return at::cat({dq, dgates, dk, dv}, 3).view(qkv_SW.sizes()).to(qkv_SW.scalar_type());
}

QkvResult split_qkv(const at::Tensor& qkv_SW, const QkvInputs& in) {
  if (!vector_path(qkv_SW, in)) return split_qkv_reference(qkv_SW, in);
  const at::Tensor qkv = qkv_SW.contiguous();
  const auto& [groups, per_group, D, gate] = in.layout;
  QkvResult out{at::empty({in.B, in.layout.heads(), in.T, D}, qkv.options()), at::empty({in.B, groups, in.T, D}, qkv.options()),
                at::empty({in.B, groups, in.T, D}, qkv.options()), {}};
  if (in.query_norm_D.defined()) out.rstd = at::empty({in.B * in.T, groups * (per_group + 1)}, qkv.options().dtype(at::kFloat));
  with_vector_type(qkv, [&]<class T>(T) {
    for_ranges(in.B * in.T, [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().split_qkv(begin, end, shape_of(in), pointer<T>(qkv), norms_of<T>(in), pointer<float>(in.cos_SR), pointer<float>(in.sin_SR),
                                    pointer<T>(out.q_BNTD), pointer<T>(out.k_BGTD), pointer<T>(out.v_BGTD), pointer<float>(out.rstd));
    });
  });
  return out;
}

void split_qkv_backward(const at::Tensor& qkv_SW, const QkvInputs& in, const at::Tensor& dq_BNTD, const at::Tensor& dk_BGTD, const at::Tensor& dv_BGTD,
                        const at::Tensor& rstd, at::Tensor& dqkv_SW, at::Tensor& query_gradient_D, at::Tensor& key_gradient_D) {
  const int64_t D = in.layout.head_dim;
  if (!vector_path(qkv_SW, in)) {
    const at::Tensor all = split_qkv_backward_reference(qkv_SW, in, dq_BNTD, dk_BGTD, dv_BGTD, rstd, query_gradient_D, key_gradient_D);
    const auto by_group = [&](const at::Tensor& t) { return t.view({in.B * in.T, in.layout.groups, in.layout.group_heads(), D}); };
    const int64_t queries = in.layout.queries_per_group, key = queries + in.layout.gates();
    by_group(dqkv_SW).narrow(2, 0, queries).copy_(by_group(all).narrow(2, 0, queries));
    by_group(dqkv_SW).narrow(2, key, 2).copy_(by_group(all).narrow(2, key, 2));
    return;
  }
  const at::Tensor qkv = qkv_SW.contiguous(), dq = dq_BNTD.contiguous(), dk = dk_BGTD.contiguous(), dv = dv_BGTD.contiguous();
  at::Tensor partial = at::zeros({kRanges, 2, D}, qkv.options().dtype(at::kFloat));
  with_vector_type(qkv, [&]<class T>(T) {
    for_ranges(in.B * in.T, [&](int64_t range, int64_t begin, int64_t end) {
      float* sums = pointer<float>(partial) + range * 2 * D;
      vector_kernels<T>().split_qkv_backward(begin, end, shape_of(in), pointer<T>(qkv), norms_of<T>(in), pointer<float>(in.cos_SR), pointer<float>(in.sin_SR),
                                             pointer<T>(dq), pointer<T>(dk), pointer<T>(dv), pointer<float>(rstd), pointer<T>(dqkv_SW), sums, sums + D);
    });
  });
  const at::Tensor sums = partial.sum(0);
  if (query_gradient_D.defined()) query_gradient_D.add_(sums[0]);
  if (key_gradient_D.defined()) key_gradient_D.add_(sums[1]);
}

}  // namespace ponte
