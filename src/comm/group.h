// A group of ranks and the collectives Ponte uses over it. A group of one is a no-op, so callers never ask how many they are. Back ends: one
// rank (no-op), threads of this process (tests and equality proofs); process back ends implement the same interface.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ponte {

enum class ReduceOp { sum, max };

class Group {
 public:
  virtual ~Group() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  // Every rank of the group calls with tensors of equal shape and dtype; results are the same bits on every rank. Summation runs in rank
  // order, so that a result does not depend on timing.
  virtual void all_reduce(at::Tensor& tensor, ReduceOp op) = 0;              // in place; tensor must be contiguous
  virtual at::Tensor all_gather(const at::Tensor& tensor) = 0;               // [size * dim0, ...], in rank order
  virtual at::Tensor reduce_scatter_sum(const at::Tensor& tensor) = 0;       // dim 0 must divide by size; this rank's part of the sum
  virtual void broadcast(at::Tensor& tensor, int64_t root) = 0;              // in place
  virtual void barrier() = 0;
};

// The groups one rank belongs to, one per mesh axis. Defaults: one rank.
struct Groups {
  std::shared_ptr<Group> tensor;             // tensor parallel (and sequence parallel on top)
  std::shared_ptr<Group> pipeline;
  std::shared_ptr<Group> context;
  std::shared_ptr<Group> data;               // data parallel replicas, context parallel ranks included
  std::shared_ptr<Group> expert;
  std::shared_ptr<Group> expert_tensor;
  // Tensor ranks holding the same key/value heads when there are more ranks than heads (size 1 otherwise).
  std::shared_ptr<Group> key_value_replicas;
};

// The group of one.
std::shared_ptr<Group> single_group();
Groups single_groups();

}  // namespace ponte
