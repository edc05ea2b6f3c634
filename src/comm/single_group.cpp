// The group of one: every collective is already done.
#include "comm/group.h"

namespace ponte {
namespace {

class SingleGroup final : public Group {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_reduce(at::Tensor&, ReduceOp) override {}
  at::Tensor all_gather(const at::Tensor& tensor) override { return tensor; }
  at::Tensor reduce_scatter_sum(const at::Tensor& tensor) override { return tensor; }
  void broadcast(at::Tensor&, int64_t) override {}
  void barrier() override {}
};

}  // namespace

std::shared_ptr<Group> single_group() {
  static const auto group = std::make_shared<SingleGroup>();
  return group;
}

Groups single_groups() {
  const auto one = single_group();
  return {one, one, one, one, one, one};
}

}  // namespace ponte
