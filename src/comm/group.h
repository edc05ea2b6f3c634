// A group of ranks and the collectives Ponte uses over it. A group of one is a no-op, so callers never ask how many they are. Back ends: one
// rank (no-op), threads of this process (tests and equality proofs); process back ends implement the same interface.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "layout/mesh.h"

namespace ponte {

enum class ReduceOp { sum, max };

// What a rank has handed to a collective so far. bytes: all_reduce and broadcast the tensor; all_gather and reduce_scatter the larger side (everybody's
// parts together); all_to_all the rows for others; transfer the tensors sent.
enum class Collective { all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, transfer };
inline constexpr size_t kCollectives = 6;
struct Traffic {
  int64_t calls = 0, bytes = 0;
};

// One message between two ranks of a group. The tensor is contiguous; sent: unchanged until the transfer has ended; received: filled in place.
struct Transfer {
  enum class Direction { send, receive } direction;
  int64_t peer;
  at::Tensor tensor;
};
// Messages under way. wait() returns when all have ended (received tensors are filled); so does the destructor.
class PendingTransfers {
 public:
  virtual ~PendingTransfers() = default;
  virtual void wait() = 0;
};

// A result under way; wait() once.
class PendingTensor {
 public:
  virtual ~PendingTensor() = default;
  virtual at::Tensor wait() = 0;
};

class Group {
 public:
  virtual ~Group() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  // Every rank of the group calls with contiguous tensors of equal shape and dtype; results are the same bits on every rank. Sums run in rank
  // order, so that a result does not depend on timing.
  void all_reduce(at::Tensor& tensor, ReduceOp op);               // in place
  at::Tensor all_gather(const at::Tensor& tensor);                // [size * dim 0, ...], in rank order
  at::Tensor reduce_scatter_sum(const at::Tensor& tensor);        // this rank's part of the sum; dim 0 divides by size
  void broadcast(at::Tensor& tensor, int64_t root);               // in place
  virtual void barrier() = 0;

  // The same with parts of different length: rows[r] are rank r's rows on dim 0, the same list on every rank.
  at::Tensor all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows);
  at::Tensor reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows);
  // Rows sorted by where they go -> rows sorted by where they came from. sent[r]: rows for rank r; received[r]: rows from rank r, that rank's
  // sent[this rank].
  at::Tensor all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received);
  // The same, started: other work, other collectives of this group too, may be done until the result is waited for. What is given stays unchanged until then.
  // Every rank starts them in the same order.
  std::unique_ptr<PendingTensor> start_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows);
  std::unique_ptr<PendingTensor> start_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows);
  std::unique_ptr<PendingTensor> start_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received);
  // Starts messages; those from one rank to another arrive in the order they were started in.
  std::unique_ptr<PendingTransfers> transfer(std::span<const Transfer> transfers);

  const Traffic& traffic(Collective kind) const { return traffic_[static_cast<size_t>(kind)]; }

 protected:
  virtual void do_all_reduce(at::Tensor& tensor, ReduceOp op) = 0;
  virtual at::Tensor do_all_gather(const at::Tensor& tensor) = 0;
  virtual at::Tensor do_reduce_scatter_sum(const at::Tensor& tensor) = 0;
  virtual void do_broadcast(at::Tensor& tensor, int64_t root) = 0;
  virtual at::Tensor do_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) = 0;
  virtual at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) = 0;
  virtual at::Tensor do_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) = 0;
  virtual std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) = 0;
  // A back end that cannot do other things meanwhile ends them before they return.
  virtual std::unique_ptr<PendingTensor> do_start_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows);
  virtual std::unique_ptr<PendingTensor> do_start_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows);
  virtual std::unique_ptr<PendingTensor> do_start_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received);

 private:
  void count(Collective kind, int64_t bytes);
  void check_gather(const at::Tensor& tensor, std::span<const int64_t> rows);
  void check_scatter(const at::Tensor& tensor, std::span<const int64_t> rows);
  void check_exchange(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received);
  std::array<Traffic, kCollectives> traffic_{};
};

// The groups one rank belongs to; layout/mesh.h says what each is for.
struct Groups {
  std::shared_ptr<Group> tensor, context, context_inner, context_outer, data, data_context, tensor_context, pipeline, embedding, model;
  std::shared_ptr<Group> expert, expert_tensor, expert_tensor_expert, expert_data, world;
  std::shared_ptr<Group> data_context_shares, data_context_copies, expert_data_shares, expert_data_copies;
  std::shared_ptr<Group>& operator[](GroupKind kind);
};

// The groups of a rank of a mesh. make(name, ranks) is called once for each different list of more than one rank that has `rank` in it, in the same order of
// kinds on every rank; groups of the same ranks share one.
Groups groups_of(const Mesh& mesh, int64_t rank, const std::function<std::shared_ptr<Group>(const std::string& name, const std::vector<int64_t>& ranks)>& make);

std::shared_ptr<Group> single_group();
Groups single_groups();

}  // namespace ponte
