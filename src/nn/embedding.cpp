#include "nn/embedding.h"

#include <torch/csrc/autograd/custom_function.h>

#include "base/errors.h"
#include "kernels/embedding.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct EmbeddingFunction : torch::autograd::Function<EmbeddingFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& weight_VH, const at::Tensor& local_ids_S, Parameter* parameter) {
    context->save_for_backward({local_ids_S});
    context->saved_data["weight"] = reinterpret_cast<int64_t>(parameter);
    return gather_rows(weight_VH, local_ids_S);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    auto* weight = reinterpret_cast<Parameter*>(context->saved_data["weight"].toInt());
    if (weight->value.requires_grad()) add_rows(gradient_of(*weight), context->get_saved_variables()[0], dy[0]);
    return {at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

VocabularyRows vocabulary_rows(const Parameter& parameter) {
  PONTE_ASSERT(parameter.slice.segments.size() == 1 && parameter.slice.segments[0].intervals.size() == 1);
  const Interval& rows = parameter.slice.segments[0].intervals[0];
  return {rows.begin, rows.end};
}

at::Tensor Embedding::operator()(const at::Tensor& ids_S) const {
  const VocabularyRows rows = vocabulary_rows(*weight);
  const at::Tensor local = ids_S - rows.begin, mine = local.masked_fill(at::logical_or(local < 0, local >= rows.end - rows.begin), -1);
  return region.leave(EmbeddingFunction::apply(weight->value, mine, weight));
}

}  // namespace ponte
