#include "parallel/data_parallel.h"

#include <ATen/ATen.h>

#include <array>

#include "base/errors.h"

namespace ponte {
namespace {

at::ScalarType gradient_type(const Parameter& p) { return p.value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }
int64_t row_elements(const Parameter& p) { return p.value.size(0) == 0 ? 0 : p.value.numel() / p.value.size(0); }

}  // namespace

// One bucket has one group and one type; parameters join in order, until it is full.
DataParallel::DataParallel(std::span<Parameter* const> parameters, const Groups& groups, const Settings& settings)
    : settings_(settings), groups_{groups.data_context, groups.expert_data} {
  std::vector<Bucket> open;
  std::vector<int64_t> filled;
  for (Parameter* parameter : parameters) {
    if (!parameter->value.requires_grad()) continue;
    PONTE_ASSERT(parameter->value.is_contiguous() && parameter->value.dim() >= 1);
    Group* group = groups_[parameter->rule->expert >= 0 ? 1 : 0].get();
    size_t b = 0;
    while (b < open.size() && !(open[b].group == group && open[b].members[0].parameter->value.scalar_type() == parameter->value.scalar_type())) ++b;
    if (b == open.size()) {
      open.push_back({group, {}, {}, {}});
      filled.push_back(0);
    }
    if (filled[b] > 0 && filled[b] + parameter->value.numel() > settings.bucket_elements) {
      close(open[b]);
      open[b] = {group, {}, {}, {}};
      filled[b] = 0;
    }
    open[b].members.push_back({parameter, {}});
    filled[b] += parameter->value.numel();
  }
  for (Bucket& bucket : open) close(bucket);
}

void DataParallel::close(Bucket& bucket) {
  std::vector<Extent> extents;
  int64_t total = 0;
  for (const Member& m : bucket.members) {
    extents.push_back({m.parameter->value.size(0), row_elements(*m.parameter)});
    total += m.parameter->value.numel();
  }
  const auto parts = share_rows(extents, bucket.group->size());
  const auto rank = static_cast<size_t>(bucket.group->rank());
  const Parameter& first = *bucket.members[0].parameter;
  bucket.gradients = at::zeros({total}, first.value.options().dtype(gradient_type(first)).requires_grad(false));
  bucket.part_elements.assign(parts.size(), 0);
  int64_t at = 0;
  for (size_t i = 0; i < bucket.members.size(); ++i) {
    Member& m = bucket.members[i];
    m.parameter->main_grad = bucket.gradients.narrow(0, at, m.parameter->value.numel()).view(m.parameter->value.sizes());
    at += m.parameter->value.numel();
    for (size_t p = 0; p < parts.size(); ++p) {
      m.parts.push_back(parts[p][i]);
      bucket.part_elements[p] += parts[p][i].count() * extents[i].row_elements;
    }
    const Rows all{0, extents[i].rows};
    shares_.push_back({m.parameter, settings_.optimizer == Optimizer::distributed ? m.parts[rank] : all, m.parts[rank]});
  }
  buckets_.push_back(std::move(bucket));
}

// This replica's part of the bucket, summed over the replicas.
at::Tensor DataParallel::sum_of_parts(const Bucket& bucket) const {
  Group& group = *bucket.group;
  const at::ScalarType type = bucket.members[0].parameter->value.scalar_type();
  if (settings_.reduction == Reduction::as_accumulated || type == bucket.gradients.scalar_type())
    return group.reduce_scatter_sum_rows(bucket.gradients, bucket.part_elements);
  const int64_t mine = bucket.part_elements[static_cast<size_t>(group.rank())];
  const std::vector<int64_t> received(static_cast<size_t>(group.size()), mine);
  const at::Tensor parts = group.all_to_all(bucket.gradients.to(type), bucket.part_elements, received).view({group.size(), mine}).to(at::kFloat);
  at::Tensor sum = parts[0].clone();
  for (int64_t r = 1; r < group.size(); ++r) sum.add_(parts[r]);
  return sum;
}

void DataParallel::reduce_gradients() {
  const at::NoGradGuard off;
  for (Bucket& bucket : buckets_) {
    Group& group = *bucket.group;
    if (group.size() == 1) continue;
    const at::Tensor sum = sum_of_parts(bucket);
    if (settings_.optimizer == Optimizer::replicated) {
      bucket.gradients.copy_(group.all_gather_rows(sum, bucket.part_elements));
      continue;
    }
    int64_t begin = 0;
    for (int64_t r = 0; r < group.rank(); ++r) begin += bucket.part_elements[static_cast<size_t>(r)];
    bucket.gradients.narrow(0, begin, sum.numel()).copy_(sum);
  }
}

void DataParallel::gather_values() {
  const at::NoGradGuard off;
  if (settings_.optimizer == Optimizer::replicated) return;
  for (Bucket& bucket : buckets_) {
    Group& group = *bucket.group;
    if (group.size() == 1) continue;
    const auto rank = static_cast<size_t>(group.rank());
    std::vector<at::Tensor> mine;
    for (const Member& m : bucket.members) mine.push_back(m.parameter->value.detach().narrow(0, m.parts[rank].begin, m.parts[rank].count()).reshape({-1}));
    const at::Tensor all = group.all_gather_rows(at::cat(mine), bucket.part_elements);
    int64_t at = 0;
    for (size_t r = 0; r < bucket.part_elements.size(); ++r)
      for (const Member& m : bucket.members) {
        const at::Tensor to = m.parameter->value.detach().narrow(0, m.parts[r].begin, m.parts[r].count());
        if (r != rank) to.copy_(all.narrow(0, at, to.numel()).view(to.sizes()));
        at += to.numel();
      }
  }
}

}  // namespace ponte
