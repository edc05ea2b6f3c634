#include "kernels/embedding.h"

#include "kernels/dispatch.h"

namespace ponte {

at::Tensor gather_rows(const at::Tensor& table_VH, const at::Tensor& ids_S) {
  const at::Tensor outside = at::logical_or(ids_S < 0, ids_S >= table_VH.size(0));
  return at::index_select(table_VH, 0, ids_S.masked_fill(outside, 0)).masked_fill_(outside.unsqueeze(-1), 0);
}

void add_rows(at::Tensor& gradient_VH, const at::Tensor& ids_S, const at::Tensor& dy_SH) {
  if (!has_vector_path(dy_SH) || !gradient_VH.is_contiguous()) {
    const at::Tensor outside = at::logical_or(ids_S < 0, ids_S >= gradient_VH.size(0));
    gradient_VH.index_add_(0, ids_S.masked_fill(outside, 0), dy_SH.to(gradient_VH.scalar_type()).masked_fill(outside.unsqueeze(-1), 0));
    return;
  }
  const at::Tensor ids = ids_S.contiguous(), dy = dy_SH.contiguous();
  const int64_t H = dy.size(1), V = gradient_VH.size(0), S = ids.size(0);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  with_vector_type(dy, [&]<class T>(T) {
    parallel_parts(0, H, 64, [&](int64_t begin, int64_t end) {  // columns, so that no two threads share a row
      for (int64_t s = 0; s < S; ++s)
        if (id[s] >= 0 && id[s] < V)
          vector_kernels<T>().add_to_float(end - begin, pointer<T>(dy) + s * H + begin, pointer<float>(gradient_VH) + id[s] * H + begin);
    });
  });
}

}  // namespace ponte
