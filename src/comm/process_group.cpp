#include "comm/process_group.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <tuple>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr int kGatherTag = 1;           // of the messages of an all-gather; transfers have tag 0
constexpr int64_t kSmallBytes = 1 << 12;  // below, a reduction in one exchange beats one in two

std::string listed(const std::vector<int64_t>& ranks) {
  std::vector<std::string> out;
  for (const int64_t r : ranks) out.push_back(std::to_string(r));
  return join(out, ", ");
}

at::Tensor as_bytes(const at::Tensor& tensor) { return tensor.reshape({-1}).view(at::kByte); }

int64_t row_bytes(const at::Tensor& tensor) {
  int64_t bytes = static_cast<int64_t>(tensor.element_size());
  for (int64_t d = 1; d < tensor.dim(); ++d) bytes *= tensor.size(d);
  return bytes;
}

at::Tensor with_rows(const at::Tensor& like, int64_t rows) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape[0] = rows;
  return at::empty(shape, like.options().requires_grad(false));
}

// Parts of equal shape, one after another, into one, in their order.
at::Tensor reduced(const at::Tensor& parts_RN, ReduceOp op) {
  at::Tensor out = parts_RN[0].clone();
  for (int64_t r = 1; r < parts_RN.size(0); ++r) out = op == ReduceOp::sum ? out.add_(parts_RN[r]) : at::maximum(out, parts_RN[r]);
  return out;
}

// Pairs of ranks in the same order on all of them: a device's back end connects two ranks at their first message, and ranks that each wait for their next
// neighbour to connect would wait in a ring.
std::vector<Transfer> in_meeting_order(std::span<const Transfer> transfers, int64_t rank) {
  std::vector<Transfer> out(transfers.begin(), transfers.end());
  const auto meeting = [rank](const Transfer& t) {
    const int64_t sender = t.direction == Transfer::Direction::send ? rank : t.peer;
    return std::tuple(std::min(rank, t.peer), std::max(rank, t.peer), sender);
  };
  std::stable_sort(out.begin(), out.end(), [&](const Transfer& a, const Transfer& b) { return meeting(a) < meeting(b); });
  return out;
}

class PendingWorks final : public PendingTransfers {
 public:
  struct Message {
    c10::intrusive_ptr<c10d::Work> work;
    std::string name;
    int64_t peer;      // global rank
    at::Tensor bytes;  // alive until it has gone
  };
  PendingWorks(std::vector<Message> messages, std::shared_ptr<Life> life) : messages_(std::move(messages)), life_(std::move(life)) {}
  ~PendingWorks() override {
    try {
      wait();
    } catch (const std::exception&) {  // whoever needs the data has waited, or is on its way out already
    }
  }
  void wait() override {
    std::vector<Message> messages = std::move(messages_);
    messages_.clear();
    for (const Message& message : messages) {
      const Life::Waiting waiting(*life_, message.name);
      try {
        message.work->wait();
      } catch (const std::exception&) {
        fail("{}", life_->why_lost(message.name, {&message.peer, 1}));
      }
    }
  }

 private:
  std::vector<Message> messages_;
  const std::shared_ptr<Life> life_;
};

// A collective under way. What it reads and writes lives as long.
class PendingWork final : public PendingTensor {
 public:
  using Finish = std::function<at::Tensor(const at::Tensor&)>;
  PendingWork(std::vector<c10::intrusive_ptr<c10d::Work>> works, at::Tensor out, at::Tensor from, std::string name, std::vector<int64_t> members,
              std::shared_ptr<Life> life, Finish finish)
      : works_(std::move(works)), out_(std::move(out)), from_(std::move(from)), name_(std::move(name)), members_(std::move(members)), life_(std::move(life)),
        finish_(std::move(finish)) {}
  ~PendingWork() override {
    for (const auto& work : works_) {
      try {
        work->wait();
      } catch (const std::exception&) {  // whoever needs the result has waited, or is on its way out already
      }
    }
  }
  at::Tensor wait() override {
    const Life::Waiting waiting(*life_, name_);
    try {
      for (const auto& work : works_) work->wait();
    } catch (const std::exception&) {
      works_.clear();
      fail("{}", life_->why_lost(name_, members_));
    }
    works_.clear();
    from_.reset();
    const at::NoGradGuard off;
    return finish_ ? finish_(std::move(out_)) : std::move(out_);
  }

 private:
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
  at::Tensor out_, from_;
  const std::string name_;
  const std::vector<int64_t> members_;
  const std::shared_ptr<Life> life_;
  const Finish finish_;
};

class ProcessGroup final : public Group {
 public:
  ProcessGroup(Backends backends, ProcessGroupOptions options)
      : backends_(std::move(backends)), options_(std::move(options)), ranks_(listed(options_.members)) {}

  int64_t rank() const override { return options_.rank; }
  int64_t size() const override { return static_cast<int64_t>(options_.members.size()); }
  void barrier() override { gathered("barrier", at::zeros({1}, at::kByte)); }

 private:
  std::string name(const char* collective) const { return format("{} over {} ranks [{}]", collective, options_.name, ranks_); }

  c10d::Backend& backend_of(const at::Tensor& tensor) const {
    const auto& backend = tensor.device().is_cpu() ? backends_.host : backends_.device;
    PONTE_ASSERT(backend);
    return *backend;
  }

  template <class Start>
  void complete(const char* collective, Start start) {
    started(collective, [&] { start()->wait(); });
  }
  // A back end may see already here that another rank has gone.
  template <class Start>
  void started(const char* collective, Start start) {
    const std::string what = name(collective);
    const Life::Waiting waiting(*options_.life, what);
    try {
      start();
    } catch (const std::exception&) {
      fail("{}", options_.life->why_lost(what, options_.members));
    }
  }

  // Equal parts, [size, ...].
  at::Tensor gathered(const char* collective, const at::Tensor& tensor) {
    const at::NoGradGuard off;
    std::vector<int64_t> shape = tensor.sizes().vec();
    shape.insert(shape.begin(), size());
    at::Tensor out = at::empty(shape, tensor.options().requires_grad(false)), to = as_bytes(out), from = as_bytes(tensor);
    if (from.numel() > 0) complete(collective, [&] { return backend_of(from)._allgather_base(to, from, {}); });
    return out;
  }

  std::unique_ptr<PendingTensor> exchange(const char* collective, const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received,
                                          PendingWork::Finish finish = {}) {
    const at::NoGradGuard off;
    at::Tensor out = with_rows(tensor, std::accumulate(received.begin(), received.end(), int64_t{0}));
    at::Tensor to = as_bytes(out), from = as_bytes(tensor);
    std::vector<int64_t> to_bytes, from_bytes;
    for (const int64_t rows : received) to_bytes.push_back(rows * row_bytes(tensor));
    for (const int64_t rows : sent) from_bytes.push_back(rows * row_bytes(tensor));
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    started(collective, [&] { works.push_back(backend_of(from).alltoall_base(to, from, to_bytes, from_bytes, {})); });
    return pending(collective, std::move(works), out, from, std::move(finish));
  }

  std::unique_ptr<PendingTensor> scatter(const char* collective, const at::Tensor& tensor, std::span<const int64_t> rows, ReduceOp op) {
    const int64_t ranks = size(), own = rows[static_cast<size_t>(rank())];
    const std::vector<int64_t> mine(static_cast<size_t>(ranks), own);
    return exchange(collective, tensor, rows, mine, [ranks, own, op](const at::Tensor& parts) { return reduced(parts.unflatten(0, {ranks, own}), op); });
  }

  // Everybody's rows, in host memory straight to their place. On a device messages to and from a rank would wait for each other: there everybody's copy of
  // this rank's rows is exchanged.
  std::unique_ptr<PendingTensor> gather(const char* collective, const at::Tensor& tensor, std::span<const int64_t> rows) {
    const at::NoGradGuard off;
    if (!tensor.device().is_cpu()) {
      std::vector<int64_t> repeats(static_cast<size_t>(tensor.dim()), 1);
      repeats[0] = size();
      return exchange(collective, tensor.detach().repeat(repeats), std::vector<int64_t>(rows.size(), tensor.size(0)), rows);
    }
    at::Tensor out = with_rows(tensor, std::accumulate(rows.begin(), rows.end(), int64_t{0})), from = as_bytes(tensor);
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    started(collective, [&] {
      int64_t first = 0;
      for (int64_t r = 0; r < size(); ++r) {
        const at::Tensor theirs = out.narrow(0, first, rows[static_cast<size_t>(r)]);
        first += theirs.size(0);
        std::vector<at::Tensor> bytes = {as_bytes(theirs)}, mine = {from};
        if (r == rank()) theirs.copy_(tensor);
        else if (bytes[0].numel() > 0) works.push_back(backend_of(from).recv(bytes, static_cast<int>(r), kGatherTag));
        if (r != rank() && from.numel() > 0) works.push_back(backend_of(from).send(mine, static_cast<int>(r), kGatherTag));
      }
    });
    return pending(collective, std::move(works), out, from, {});
  }

  std::unique_ptr<PendingTensor> pending(const char* collective, std::vector<c10::intrusive_ptr<c10d::Work>> works, at::Tensor out, at::Tensor from,
                                         PendingWork::Finish finish) {
    return std::make_unique<PendingWork>(std::move(works), std::move(out), std::move(from), name(collective), options_.members, options_.life,
                                         std::move(finish));
  }

  void do_all_reduce(at::Tensor& tensor, ReduceOp op) override {
    const at::NoGradGuard off;
    if (tensor.numel() == 0) return;
    if (static_cast<int64_t>(tensor.nbytes()) <= kSmallBytes || tensor.numel() < size()) {
      tensor.copy_(reduced(gathered("all-reduce", tensor), op));
      return;
    }
    const at::Tensor flat = tensor.reshape({-1});
    const std::vector<int64_t> rows = even_rows(flat.size(0));
    const at::Tensor part = scatter("all-reduce", flat, rows, op)->wait();
    tensor.copy_(gather("all-reduce", part, rows)->wait().view(tensor.sizes()));
  }

  std::vector<int64_t> even_rows(int64_t total) const {
    std::vector<int64_t> out;
    for (int64_t r = 0; r < size(); ++r) out.push_back(total * (r + 1) / size() - total * r / size());
    return out;
  }

  at::Tensor do_all_gather(const at::Tensor& tensor) override { return gathered("all-gather", tensor).flatten(0, 1); }
  at::Tensor do_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override { return gather("all-gather", tensor, rows)->wait(); }
  at::Tensor do_reduce_scatter_sum(const at::Tensor& tensor) override {
    PONTE_ASSERT(tensor.size(0) % size() == 0);
    return scatter("reduce-scatter", tensor, std::vector<int64_t>(static_cast<size_t>(size()), tensor.size(0) / size()), ReduceOp::sum)->wait();
  }
  at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    return scatter("reduce-scatter", tensor, rows, ReduceOp::sum)->wait();
  }
  at::Tensor do_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) override {
    return exchange("all-to-all", tensor, sent, received)->wait();
  }
  std::unique_ptr<PendingTensor> do_start_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    return gather("all-gather", tensor, rows);
  }
  std::unique_ptr<PendingTensor> do_start_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    return scatter("reduce-scatter", tensor, rows, ReduceOp::sum);
  }
  std::unique_ptr<PendingTensor> do_start_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) override {
    return exchange("all-to-all", tensor, sent, received);
  }
  void do_broadcast(at::Tensor& tensor, int64_t root) override {
    const at::NoGradGuard off;
    std::vector<at::Tensor> bytes = {as_bytes(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    if (bytes[0].numel() > 0) complete("broadcast", [&] { return backend_of(bytes[0]).broadcast(bytes, options); });
  }

  std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) override {
    const at::NoGradGuard off;
    std::vector<PendingWorks::Message> messages;
    for (const Transfer& transfer : in_meeting_order(transfers, rank())) {
      std::vector<at::Tensor> bytes = {as_bytes(transfer.tensor)};
      const bool sends = transfer.direction == Transfer::Direction::send;
      const int peer = static_cast<int>(transfer.peer);
      const int64_t global = options_.members[static_cast<size_t>(transfer.peer)];
      std::string what = format("{} rank {} over {} ranks [{}]", sends ? "send to" : "receive from", global, options_.name, ranks_);
      const bool goes_back = (sends ? transfer.peer < rank() : rank() < transfer.peer) && !bytes[0].device().is_cpu();
      c10d::Backend& backend = goes_back ? *backends_.device_back : backend_of(bytes[0]);
      messages.push_back({sends ? backend.send(bytes, peer, 0) : backend.recv(bytes, peer, 0), std::move(what), global, bytes[0]});
    }
    return std::make_unique<PendingWorks>(std::move(messages), options_.life);
  }

  const Backends backends_;
  const ProcessGroupOptions options_;
  const std::string ranks_;
};

}  // namespace

std::shared_ptr<Group> process_group(Backends backends, ProcessGroupOptions options) {
  return std::make_shared<ProcessGroup>(std::move(backends), std::move(options));
}

}  // namespace ponte
