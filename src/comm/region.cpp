#include "comm/region.h"

#include <torch/csrc/autograd/custom_function.h>

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor summed(Group& group, const at::Tensor& x) {
  at::Tensor out = x.clone(at::MemoryFormat::Contiguous);
  group.all_reduce(out, ReduceOp::sum);
  return out;
}

// One class per map; `forward_map` and `backward_map` are transposes of each other.
struct CopyThenSum : torch::autograd::Function<CopyThenSum> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Group* group) {
    context->saved_data["group"] = reinterpret_cast<int64_t>(group);
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) { return {summed(*group_of(context), dy[0]), at::Tensor()}; }
  static Group* group_of(AutogradContext* context) { return reinterpret_cast<Group*>(context->saved_data["group"].toInt()); }
};

struct SumThenCopy : torch::autograd::Function<SumThenCopy> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& x, Group* group) { return summed(*group, x); }
  static variable_list backward(AutogradContext*, variable_list dy) { return {dy[0], at::Tensor()}; }
};

struct GatherThenScatter : torch::autograd::Function<GatherThenScatter> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Group* group) {
    context->saved_data["group"] = reinterpret_cast<int64_t>(group);
    return group->all_gather(x.contiguous());
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    return {CopyThenSum::group_of(context)->reduce_scatter_sum(dy[0].contiguous()), at::Tensor()};
  }
};

struct ScatterThenGather : torch::autograd::Function<ScatterThenGather> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Group* group) {
    context->saved_data["group"] = reinterpret_cast<int64_t>(group);
    return group->reduce_scatter_sum(x.contiguous());
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    return {CopyThenSum::group_of(context)->all_gather(dy[0].contiguous()), at::Tensor()};
  }
};

struct GatherRows : torch::autograd::Function<GatherRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Group* group, const std::vector<int64_t>& rows) {
    context->saved_data["group"] = reinterpret_cast<int64_t>(group);
    context->saved_data["rows"] = rows;
    return group->all_gather_rows(x.contiguous(), rows);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    return {CopyThenSum::group_of(context)->reduce_scatter_sum_rows(dy[0].contiguous(), context->saved_data["rows"].toIntVector()), at::Tensor(), at::Tensor()};
  }
};

struct ScatterRows : torch::autograd::Function<ScatterRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Group* group, const std::vector<int64_t>& rows) {
    context->saved_data["group"] = reinterpret_cast<int64_t>(group);
    context->saved_data["rows"] = rows;
    return group->reduce_scatter_sum_rows(x.contiguous(), rows);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    return {CopyThenSum::group_of(context)->all_gather_rows(dy[0].contiguous(), context->saved_data["rows"].toIntVector()), at::Tensor(), at::Tensor()};
  }
};

struct ExchangeRows : torch::autograd::Function<ExchangeRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Group* group, const std::vector<int64_t>& sent,
                            const std::vector<int64_t>& received) {
    context->saved_data["group"] = reinterpret_cast<int64_t>(group);
    context->saved_data["sent"] = sent;
    context->saved_data["received"] = received;
    return group->all_to_all(x.contiguous(), sent, received);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const std::vector<int64_t> sent = context->saved_data["sent"].toIntVector(), received = context->saved_data["received"].toIntVector();
    return {CopyThenSum::group_of(context)->all_to_all(dy[0].contiguous(), received, sent), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor all_gather_rows(const at::Tensor& x, const std::shared_ptr<Group>& group, const std::vector<int64_t>& rows) {
  return group->size() == 1 ? x : GatherRows::apply(x, group.get(), rows);
}

at::Tensor reduce_scatter_sum_rows(const at::Tensor& x, const std::shared_ptr<Group>& group, const std::vector<int64_t>& rows) {
  return group->size() == 1 ? x : ScatterRows::apply(x, group.get(), rows);
}

at::Tensor all_to_all(const at::Tensor& x, const std::shared_ptr<Group>& group, const std::vector<int64_t>& sent, const std::vector<int64_t>& received) {
  return group->size() == 1 ? x : ExchangeRows::apply(x, group.get(), sent, received);
}

at::Tensor TensorRegion::enter(const at::Tensor& x_SH) const {
  if (group->size() == 1) return x_SH;
  return residual == Residual::replicated ? CopyThenSum::apply(x_SH, group.get()) : GatherThenScatter::apply(x_SH, group.get());
}

at::Tensor TensorRegion::leave(const at::Tensor& x_SH) const {
  if (group->size() == 1) return x_SH;
  return residual == Residual::replicated ? SumThenCopy::apply(x_SH, group.get()) : ScatterThenGather::apply(x_SH, group.get());
}

}  // namespace ponte
