// What all back ends share: counting, and the groups of a mesh.
#include "comm/group.h"

#include <map>

#include "base/errors.h"

namespace ponte {
namespace {

int64_t sum(std::span<const int64_t> rows) {
  int64_t total = 0;
  for (const int64_t n : rows) total += n;
  return total;
}

int64_t row_bytes(const at::Tensor& tensor) {
  int64_t elements = 1;
  for (int64_t d = 1; d < tensor.dim(); ++d) elements *= tensor.size(d);
  return elements * tensor.element_size();
}

}  // namespace

void Group::count(Collective kind, int64_t bytes) {
  if (size() == 1) return;
  Traffic& t = traffic_[static_cast<size_t>(kind)];
  ++t.calls;
  t.bytes += bytes;
}

void Group::all_reduce(at::Tensor& tensor, ReduceOp op) {
  count(Collective::all_reduce, tensor.nbytes());
  do_all_reduce(tensor, op);
}

at::Tensor Group::all_gather(const at::Tensor& tensor) {
  count(Collective::all_gather, static_cast<int64_t>(tensor.nbytes()) * size());
  return do_all_gather(tensor);
}

at::Tensor Group::reduce_scatter_sum(const at::Tensor& tensor) {
  PONTE_ASSERT(tensor.size(0) % size() == 0);
  count(Collective::reduce_scatter, tensor.nbytes());
  return do_reduce_scatter_sum(tensor);
}

void Group::broadcast(at::Tensor& tensor, int64_t root) {
  count(Collective::broadcast, tensor.nbytes());
  do_broadcast(tensor, root);
}

void Group::check_gather(const at::Tensor& tensor, std::span<const int64_t> rows) {
  PONTE_ASSERT(static_cast<int64_t>(rows.size()) == size() && tensor.size(0) == rows[rank()]);
  count(Collective::all_gather, sum(rows) * row_bytes(tensor));
}
void Group::check_scatter(const at::Tensor& tensor, std::span<const int64_t> rows) {
  PONTE_ASSERT(static_cast<int64_t>(rows.size()) == size() && tensor.size(0) == sum(rows));
  count(Collective::reduce_scatter, tensor.nbytes());
}
void Group::check_exchange(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) {
  PONTE_ASSERT(static_cast<int64_t>(sent.size()) == size() && sent.size() == received.size() && tensor.size(0) == sum(sent));
  PONTE_ASSERT(sent[rank()] == received[rank()]);
  count(Collective::all_to_all, (sum(sent) - sent[rank()]) * row_bytes(tensor));
}

at::Tensor Group::all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) {
  check_gather(tensor, rows);
  return do_all_gather_rows(tensor, rows);
}
at::Tensor Group::reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) {
  check_scatter(tensor, rows);
  return do_reduce_scatter_sum_rows(tensor, rows);
}
at::Tensor Group::all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) {
  check_exchange(tensor, sent, received);
  return do_all_to_all(tensor, sent, received);
}

std::unique_ptr<PendingTensor> Group::start_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) {
  check_gather(tensor, rows);
  return do_start_all_gather_rows(tensor, rows);
}
std::unique_ptr<PendingTensor> Group::start_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) {
  check_scatter(tensor, rows);
  return do_start_reduce_scatter_sum_rows(tensor, rows);
}
std::unique_ptr<PendingTensor> Group::start_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) {
  check_exchange(tensor, sent, received);
  return do_start_all_to_all(tensor, sent, received);
}

namespace {

struct Ended final : PendingTensor {
  explicit Ended(at::Tensor t) : result(std::move(t)) {}
  at::Tensor wait() override { return std::move(result); }
  at::Tensor result;
};

}  // namespace

std::unique_ptr<PendingTensor> Group::do_start_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) {
  return std::make_unique<Ended>(do_all_gather_rows(tensor, rows));
}
std::unique_ptr<PendingTensor> Group::do_start_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) {
  return std::make_unique<Ended>(do_reduce_scatter_sum_rows(tensor, rows));
}
std::unique_ptr<PendingTensor> Group::do_start_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) {
  return std::make_unique<Ended>(do_all_to_all(tensor, sent, received));
}

std::unique_ptr<PendingTransfers> Group::transfer(std::span<const Transfer> transfers) {
  for (const Transfer& t : transfers) {
    PONTE_ASSERT(t.peer >= 0 && t.peer < size() && t.tensor.is_contiguous());
    if (t.direction == Transfer::Direction::send) count(Collective::transfer, t.tensor.nbytes());
  }
  return do_transfer(transfers);
}

std::shared_ptr<Group>& Groups::operator[](GroupKind kind) {
  switch (kind) {
    case GroupKind::tensor: return tensor;
    case GroupKind::context: return context;
    case GroupKind::context_inner: return context_inner;
    case GroupKind::context_outer: return context_outer;
    case GroupKind::data: return data;
    case GroupKind::data_context: return data_context;
    case GroupKind::tensor_context: return tensor_context;
    case GroupKind::pipeline: return pipeline;
    case GroupKind::embedding: return embedding;
    case GroupKind::model: return model;
    case GroupKind::expert: return expert;
    case GroupKind::expert_tensor: return expert_tensor;
    case GroupKind::expert_tensor_expert: return expert_tensor_expert;
    case GroupKind::expert_data: return expert_data;
    case GroupKind::data_context_shares: return data_context_shares;
    case GroupKind::data_context_copies: return data_context_copies;
    case GroupKind::expert_data_shares: return expert_data_shares;
    case GroupKind::expert_data_copies: return expert_data_copies;
    case GroupKind::world: return world;
  }
  PONTE_ASSERT(false);
  return world;
}

Groups groups_of(const Mesh& mesh, int64_t rank,
                 const std::function<std::shared_ptr<Group>(const std::string& name, const std::vector<int64_t>& ranks)>& make) {
  Groups out = single_groups();
  std::map<std::vector<int64_t>, std::shared_ptr<Group>> made;
  for (int64_t k = 0; k < kGroupKinds; ++k) {
    const auto kind = static_cast<GroupKind>(k);
    const std::vector<int64_t> ranks = mesh.group(kind, rank);
    if (ranks.size() == 1) continue;
    std::shared_ptr<Group>& group = made[ranks];
    if (!group) group = make(name_of(kind), ranks);
    out[kind] = group;
  }
  return out;
}

}  // namespace ponte
