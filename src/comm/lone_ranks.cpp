#include "comm/lone_ranks.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "base/errors.h"

namespace ponte {
namespace {

int64_t sum(std::span<const int64_t> rows) { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }

// The rows again and again, until there are `count`.
at::Tensor repeated(const at::Tensor& tensor, int64_t count) {
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

struct Ended final : PendingTransfers {
  void wait() override {}
};

class LoneGroup final : public Group {
 public:
  LoneGroup(int64_t rank, std::shared_ptr<GroupCalls> calls, std::shared_ptr<const GroupCalls*> last)
      : rank_(rank), size_(static_cast<int64_t>(calls->ranks.size())), calls_(std::move(calls)), last_(std::move(last)) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  void barrier() override {}

 protected:
  void do_all_reduce(at::Tensor& tensor, ReduceOp op) override {
    keep(Collective::all_reduce, tensor);
    if (op == ReduceOp::sum) tensor.mul_(size_);
  }
  at::Tensor do_all_gather(const at::Tensor& tensor) override {
    keep(Collective::all_gather, tensor);
    return at::cat(std::vector<at::Tensor>(static_cast<size_t>(size_), tensor));
  }
  at::Tensor do_reduce_scatter_sum(const at::Tensor& tensor) override {
    keep(Collective::reduce_scatter, tensor);
    return tensor.chunk(size_)[static_cast<size_t>(rank_)] * size_;
  }
  void do_broadcast(at::Tensor& tensor, int64_t root) override { keep(Collective::broadcast, tensor).peer = root; }
  at::Tensor do_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    keep(Collective::all_gather, tensor).rows.assign(rows.begin(), rows.end());
    return repeated(tensor, sum(rows));
  }
  at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    keep(Collective::reduce_scatter, tensor).rows.assign(rows.begin(), rows.end());
    const auto own = static_cast<size_t>(rank_);
    return tensor.narrow(0, sum(rows.first(own)), rows[own]) * size_;
  }
  at::Tensor do_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) override {
    GroupCall& call = keep(Collective::all_to_all, tensor);
    call.rows.assign(sent.begin(), sent.end());
    call.received.assign(received.begin(), received.end());
    return repeated(tensor, sum(received));
  }
  std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) override {
    for (Transfer t : transfers) {
      GroupCall& call = keep(Collective::transfer, t.tensor);
      call.direction = t.direction;
      call.peer = t.peer;
      if (t.direction == Transfer::Direction::receive) t.tensor.zero_();
    }
    return std::make_unique<Ended>();
  }

 private:
  GroupCall& keep(Collective collective, const at::Tensor& tensor) {
    PONTE_ASSERT(tensor.is_contiguous());
    *last_ = calls_.get();
    return calls_->calls.emplace_back(GroupCall{.collective = collective, .type = tensor.scalar_type(), .shape = tensor.sizes().vec()});
  }
  int64_t rank_, size_;
  std::shared_ptr<GroupCalls> calls_;
  std::shared_ptr<const GroupCalls*> last_;
};

}  // namespace

std::string text_of(const GroupCall& call) {
  constexpr const char* kNames[kCollectives] = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "transfer"};
  std::string out = format("{} of {} {}", kNames[static_cast<size_t>(call.collective)], c10::toString(call.type), call.shape);
  if (!call.received.empty()) return out + format(", rows {} for {}", call.rows, call.received);
  if (!call.rows.empty()) out += format(", rows {}", call.rows);
  return out;
}

LoneRank::LoneRank(int64_t rank, int64_t size) : rank_(rank), size_(size) {
  require(rank >= 0 && rank < size, "rank {}: there are {} ranks, the first is 0", rank, size);
  std::vector<int64_t> everyone(static_cast<size_t>(size));
  std::iota(everyone.begin(), everyone.end(), int64_t{0});
  world_ = size == 1 ? single_group() : make_group("world", everyone);
}

std::shared_ptr<Group> LoneRank::make_group(const std::string& name, const std::vector<int64_t>& members) {
  const auto place = std::find(members.begin(), members.end(), rank_);
  PONTE_ASSERT(place != members.end());
  calls_.push_back(std::make_shared<GroupCalls>(GroupCalls{name, members, {}}));
  return std::make_shared<LoneGroup>(place - members.begin(), calls_.back(), last_);
}

std::shared_ptr<Group> LoneRank::group(const std::string& name, const std::vector<int64_t>& members) {
  if (members.size() == 1) return single_group();
  if (static_cast<int64_t>(members.size()) == size_ && std::is_sorted(members.begin(), members.end())) return world_;
  return make_group(name, members);
}

std::string LoneRank::whereabouts() const {
  if (!*last_) return phase_;
  return format("{}, after {} over {} ranks {}", phase_, text_of((*last_)->calls.back()), (*last_)->group, (*last_)->ranks);
}

}  // namespace ponte
