#include "kernels/meta_shapes.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string_view>

#include "base/errors.h"

namespace ponte {
namespace {

at::Tensor index_select(const at::Tensor& self, int64_t dim, const at::Tensor& index) {
  std::vector<int64_t> shape = self.sizes().vec();
  PONTE_ASSERT(!shape.empty() && index.dim() == 1);
  shape[static_cast<size_t>(at::maybe_wrap_dim(dim, self.dim()))] = index.size(0);
  return at::empty(shape, self.options());
}

at::Tensor searchsorted(const at::Tensor&, const at::Tensor& values, bool as_int32, bool, std::optional<std::string_view>, const std::optional<at::Tensor>&) {
  return at::empty(values.sizes(), values.options().dtype(as_int32 ? at::kInt : at::kLong));
}

at::Tensor solve_triangular(const at::Tensor& a, const at::Tensor& b, bool, bool left, bool) { return left ? at::matmul(a, b) : at::matmul(b, a); }

at::Tensor where(const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b) {
  const auto shape = at::infer_size(condition.sizes(), at::infer_size(a.sizes(), b.sizes()));
  return at::empty(shape, condition.options().dtype(at::result_type(a, b)));
}

at::Tensor& logical(const at::Tensor& a, const at::Tensor& b, at::Tensor& out) {
  out.resize_(at::infer_size(a.sizes(), b.sizes()));
  return out;
}
at::Tensor& same_shape(const at::Tensor& a, at::Tensor& out) {
  out.resize_(a.sizes());
  return out;
}
at::Tensor floor_divide(const at::Tensor& a, const at::Tensor& b) {
  return at::empty(at::infer_size(a.sizes(), b.sizes()), a.options().dtype(at::result_type(a, b)));
}
at::Tensor flip(const at::Tensor& a, at::IntArrayRef) { return at::empty_like(a); }

at::Tensor& product_added(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b, at::ScalarType type, const at::Scalar&, const at::Scalar&,
                          at::Tensor& out) {
  PONTE_ASSERT(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) && self.sizes() == at::IntArrayRef({a.size(0), b.size(1)}));
  PONTE_ASSERT(out.sizes() == self.sizes() && out.scalar_type() == type);
  return out;
}

std::tuple<at::Tensor, at::Tensor> norm(const at::Tensor& x, at::IntArrayRef shape, const std::optional<at::Tensor>& weight, std::optional<double>) {
  PONTE_ASSERT(weight && shape.size() == 1 && weight->sizes() == shape && x.size(-1) == shape[0]);
  std::vector<int64_t> rows = x.sizes().vec();
  rows.back() = 1;
  return {at::empty_like(x), at::empty(rows, x.options().dtype(at::kFloat))};
}
std::tuple<at::Tensor, at::Tensor> norm_backward(const at::Tensor& dy, const at::Tensor& x, at::IntArrayRef shape, const at::Tensor& rstd,
                                                 const std::optional<at::Tensor>& weight, std::array<bool, 2> wanted) {
  PONTE_ASSERT(weight && dy.sizes() == x.sizes() && x.size(-1) == shape[0] && rstd.numel() * shape[0] == x.numel());
  return {at::empty_like(x), wanted[1] ? at::empty_like(*weight) : at::Tensor()};
}

// [B, T, heads, D], or [tokens, heads, D] with documents; the log sums are [B, heads, T], or [heads, tokens].
bool fit_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& cut) {
  const bool packed = cut && cut->defined();
  return q.dim() == (packed ? 3 : 4) && k.sizes() == v.sizes() && k.dim() == q.dim() && q.size(-1) == k.size(-1) && q.size(-2) % k.size(-2) == 0 &&
         (packed || q.size(0) == k.size(0));
}
using FiveTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
FiveTensors flash_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& cut, const std::optional<at::Tensor>&,
                          int64_t, int64_t, double, bool, bool, std::optional<double>, std::optional<int64_t>, std::optional<int64_t>,
                          const std::optional<at::Tensor>&, const std::optional<at::Tensor>&, const std::optional<at::Tensor>&, std::optional<int64_t>) {
  PONTE_ASSERT(fit_attention(q, k, v, cut));
  const at::Tensor log_sum = at::empty(q.dim() == 3 ? std::vector<int64_t>{q.size(1), q.size(0)} : std::vector<int64_t>{q.size(0), q.size(2), q.size(1)},
                                       q.options().dtype(at::kFloat));
  const at::Tensor none = at::empty({0}, q.options());
  return {at::empty(q.sizes(), q.options()), log_sum, none, none, none};
}
std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                              const at::Tensor& out, const at::Tensor& log_sum, const at::Tensor& cut, const at::Tensor&,
                                                              int64_t, int64_t, double, bool, const at::Tensor&, const at::Tensor&, std::optional<double>,
                                                              std::optional<int64_t>, std::optional<int64_t>) {
  PONTE_ASSERT(fit_attention(q, k, v, cut) && dout.sizes() == q.sizes() && out.sizes() == q.sizes() && log_sum.numel() * q.size(-1) == q.numel());
  return {at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()), at::empty(v.sizes(), v.options())};
}

// Rows of `a` in groups, times a matrix each; or, both matrices having the groups on the inner dim, a product each.
at::Tensor grouped_product(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& ends, const std::optional<at::Tensor>&,
                           std::optional<at::ScalarType> type) {
  PONTE_ASSERT(ends && ends->dim() == 1 && a.dim() == 2 && a.size(1) == b.size(-2));
  const at::TensorOptions options = a.options().dtype(type.value_or(a.scalar_type()));
  if (b.dim() == 2) return at::empty({ends->size(0), a.size(0), b.size(1)}, options);
  PONTE_ASSERT(b.size(0) == ends->size(0));
  return at::empty({a.size(0), b.size(2)}, options);
}

void fused_adamw(at::TensorList params, at::TensorList gradients, at::TensorList averages, at::TensorList squares, at::TensorList, at::TensorList, double,
                 double, double, double, double, bool, bool, const std::optional<at::Tensor>&, const std::optional<at::Tensor>&) {
  PONTE_ASSERT(gradients.size() == params.size() && averages.size() == params.size() && squares.size() == params.size());
  for (size_t i = 0; i < params.size(); ++i)
    for (const at::TensorList list : {gradients, averages, squares}) PONTE_ASSERT(list[i].sizes() == params[i].sizes());
}

}  // namespace

void register_meta_shapes() {
  static const torch::Library library = [] {
    torch::Library out(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__);
    out.impl("index_select", index_select);
    out.impl("searchsorted.Tensor", searchsorted);
    out.impl("linalg_solve_triangular", solve_triangular);
    out.impl("where.self", where);
    for (const char* name : {"logical_or.out", "logical_and.out"}) out.impl(name, logical);
    for (const char* name : {"logical_not.out", "abs.out"}) out.impl(name, same_shape);
    out.impl("floor_divide", floor_divide);
    out.impl("flip", flip);
    out.impl("addmm.dtype_out", product_added);
    out.impl("_fused_rms_norm", norm);
    out.impl("_fused_rms_norm_backward", norm_backward);
    out.impl("_flash_attention_forward", flash_forward);
    out.impl("_flash_attention_backward", flash_backward);
    out.impl("_grouped_mm", grouped_product);
    out.impl("_fused_adamw_", fused_adamw);
    return out;
  }();
}

}  // namespace ponte
