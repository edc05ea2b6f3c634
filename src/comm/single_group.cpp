// The group of one: every collective is already done.
#include "base/errors.h"
#include "comm/group.h"

namespace ponte {
namespace {

class SingleGroup final : public Group {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void barrier() override {}

 protected:
  void do_all_reduce(at::Tensor&, ReduceOp) override {}
  at::Tensor do_all_gather(const at::Tensor& tensor) override { return tensor; }
  at::Tensor do_reduce_scatter_sum(const at::Tensor& tensor) override { return tensor; }
  void do_broadcast(at::Tensor&, int64_t) override {}
  at::Tensor do_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t>) override { return tensor; }
  at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t>) override { return tensor; }
  at::Tensor do_all_to_all(const at::Tensor& tensor, std::span<const int64_t>, std::span<const int64_t>) override { return tensor; }
  std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) override {
    PONTE_ASSERT(transfers.empty());  // nobody to talk to
    struct Ended : PendingTransfers {
      void wait() override {}
    };
    return std::make_unique<Ended>();
  }
};

}  // namespace

std::shared_ptr<Group> single_group() {
  static const auto group = std::make_shared<SingleGroup>();
  return group;
}

Groups single_groups() {
  Groups out;
  for (int64_t kind = 0; kind < kGroupKinds; ++kind) out[static_cast<GroupKind>(kind)] = single_group();
  return out;
}

}  // namespace ponte
