#include "comm/lone_ranks.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "base/errors.h"

namespace ponte {
namespace {

class LoneGroup final : public Group {
 public:
  LoneGroup(int64_t rank, int64_t size) : rank_(rank), size_(size) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  void barrier() override {}

 protected:
  void do_all_reduce(at::Tensor& tensor, ReduceOp op) override {
    if (op == ReduceOp::sum) tensor.mul_(size_);
  }
  at::Tensor do_all_gather(const at::Tensor& tensor) override { return at::cat(std::vector<at::Tensor>(static_cast<size_t>(size_), tensor)); }
  at::Tensor do_reduce_scatter_sum(const at::Tensor& tensor) override { return tensor.chunk(size_)[static_cast<size_t>(rank_)] * size_; }
  void do_broadcast(at::Tensor&, int64_t) override {}
  at::Tensor do_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override { return repeated(tensor, sum(rows)); }
  at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    const auto own = static_cast<size_t>(rank_);
    return tensor.narrow(0, sum(rows.first(own)), rows[own]) * size_;
  }
  at::Tensor do_all_to_all(const at::Tensor& tensor, std::span<const int64_t>, std::span<const int64_t> received) override {
    return repeated(tensor, sum(received));
  }
  std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) override {
    struct Ended final : PendingTransfers {
      void wait() override {}
    };
    for (Transfer t : transfers)
      if (t.direction == Transfer::Direction::receive) t.tensor.zero_();
    return std::make_unique<Ended>();
  }

 private:
  static int64_t sum(std::span<const int64_t> rows) { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }
  // The rows again and again, until there are `count`.
  static at::Tensor repeated(const at::Tensor& tensor, int64_t count) {
    std::vector<int64_t> shape = tensor.sizes().vec();
    shape[0] = count;
    const at::Tensor out = at::zeros(shape, tensor.options());
    if (out.is_meta() || tensor.size(0) == 0) return out;
    for (int64_t at = 0; at < count; at += tensor.size(0)) {
      const int64_t n = std::min(tensor.size(0), count - at);
      out.narrow(0, at, n).copy_(tensor.narrow(0, 0, n));
    }
    return out;
  }
  int64_t rank_, size_;
};

class LoneRank final : public Ranks {
 public:
  LoneRank(int64_t rank, int64_t size) : world_(rank, size) {}
  int64_t rank() const override { return world_.rank(); }
  int64_t size() const override { return world_.size(); }
  Group& world() override { return world_; }
  void phase(std::string) override {}
  void failed(std::string_view) override {}
  std::shared_ptr<Group> group(const std::string&, const std::vector<int64_t>& members) override {
    if (members.size() == 1) return single_group();
    const auto place = std::find(members.begin(), members.end(), rank());
    PONTE_ASSERT(place != members.end());
    return std::make_shared<LoneGroup>(place - members.begin(), static_cast<int64_t>(members.size()));
  }

 private:
  LoneGroup world_;
};

}  // namespace

std::shared_ptr<Ranks> lone_rank(int64_t rank, int64_t size) {
  require(rank >= 0 && rank < size, "rank {}: there are {} ranks, the first is 0", rank, size);
  return std::make_shared<LoneRank>(rank, size);
}

}  // namespace ponte
