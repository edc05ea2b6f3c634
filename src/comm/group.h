// A group of ranks and the collectives Ponte uses over it. A group of one is a no-op, so callers never ask how many they are. Back ends: one
// rank (no-op), threads of this process (tests and equality proofs); process back ends implement the same interface.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>

namespace ponte {

enum class ReduceOp { sum, max };

class Group {
 public:
  virtual ~Group() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  // Every rank of the group calls with contiguous tensors of equal shape and dtype; results are the same bits on every rank. Sums run in rank
  // order, so that a result does not depend on timing.
  virtual void all_reduce(at::Tensor& tensor, ReduceOp op) = 0;              // in place
  virtual at::Tensor all_gather(const at::Tensor& tensor) = 0;               // [size * dim 0, ...], in rank order
  virtual at::Tensor reduce_scatter_sum(const at::Tensor& tensor) = 0;       // this rank's part of the sum; dim 0 divides by size
  virtual void broadcast(at::Tensor& tensor, int64_t root) = 0;              // in place
  virtual void barrier() = 0;
};

// The groups one rank belongs to, one per mesh axis. Defaults: one rank.
struct Groups {
  std::shared_ptr<Group> tensor;             // tensor parallel, with sequence parallelism on top
  std::shared_ptr<Group> pipeline;
  std::shared_ptr<Group> context;
  std::shared_ptr<Group> data;               // data parallel replicas, context parallel ranks included
  std::shared_ptr<Group> expert;
  std::shared_ptr<Group> expert_tensor;
};

std::shared_ptr<Group> single_group();
Groups single_groups();

}  // namespace ponte
