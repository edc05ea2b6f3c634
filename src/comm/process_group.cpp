#include "comm/process_group.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "base/errors.h"

namespace ponte {
namespace {

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

class ProcessGroup final : public Group {
 public:
  ProcessGroup(c10::intrusive_ptr<c10d::Backend> backend, ProcessGroupOptions options)
      : backend_(std::move(backend)), options_(std::move(options)), ranks_(listed(options_.members)) {}

  int64_t rank() const override { return options_.rank; }
  int64_t size() const override { return static_cast<int64_t>(options_.members.size()); }
  void barrier() override { gathered("barrier", at::zeros({1}, at::kByte)); }

 private:
  std::string name(const char* collective) const { return format("{} over {} ranks [{}]", collective, options_.name, ranks_); }

  template <class Start>
  void complete(const char* collective, Start start) {
    const std::string what = name(collective);
    const Life::Waiting waiting(*options_.life, what);
    try {
      start()->wait();
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
    if (from.numel() > 0) complete(collective, [&] { return backend_->_allgather_base(to, from, {}); });
    return out;
  }

  at::Tensor exchanged(const char* collective, const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) {
    const at::NoGradGuard off;
    at::Tensor out = with_rows(tensor, std::accumulate(received.begin(), received.end(), int64_t{0}));
    at::Tensor to = as_bytes(out), from = as_bytes(tensor);
    std::vector<int64_t> to_bytes, from_bytes;
    for (const int64_t rows : received) to_bytes.push_back(rows * row_bytes(tensor));
    for (const int64_t rows : sent) from_bytes.push_back(rows * row_bytes(tensor));
    complete(collective, [&] { return backend_->alltoall_base(to, from, to_bytes, from_bytes, {}); });
    return out;
  }

  at::Tensor scattered(const char* collective, const at::Tensor& tensor, std::span<const int64_t> rows, ReduceOp op) {
    const std::vector<int64_t> mine(static_cast<size_t>(size()), rows[static_cast<size_t>(rank())]);
    const at::Tensor parts = exchanged(collective, tensor, rows, mine);
    return reduced(parts.unflatten(0, {size(), mine[0]}), op);
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
    const at::Tensor part = scattered("all-reduce", flat, rows, op);
    tensor.copy_(all_parts("all-reduce", part, rows).view(tensor.sizes()));
  }

  std::vector<int64_t> even_rows(int64_t total) const {
    std::vector<int64_t> out;
    for (int64_t r = 0; r < size(); ++r) out.push_back(total * (r + 1) / size() - total * r / size());
    return out;
  }

  at::Tensor all_parts(const char* collective, const at::Tensor& tensor, std::span<const int64_t> rows) {
    // Everybody's copy of this rank's rows; the exchange reads them `size` times.
    const at::NoGradGuard off;
    const std::vector<int64_t> sent(static_cast<size_t>(size()), tensor.size(0));
    std::vector<int64_t> repeats(static_cast<size_t>(tensor.dim()), 1);
    repeats[0] = size();
    return exchanged(collective, tensor.detach().repeat(repeats), sent, rows);
  }

  at::Tensor do_all_gather(const at::Tensor& tensor) override { return gathered("all-gather", tensor).flatten(0, 1); }
  at::Tensor do_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override { return all_parts("all-gather", tensor, rows); }
  at::Tensor do_reduce_scatter_sum(const at::Tensor& tensor) override {
    PONTE_ASSERT(tensor.size(0) % size() == 0);
    return scattered("reduce-scatter", tensor, std::vector<int64_t>(static_cast<size_t>(size()), tensor.size(0) / size()), ReduceOp::sum);
  }
  at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    return scattered("reduce-scatter", tensor, rows, ReduceOp::sum);
  }
  at::Tensor do_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) override {
    return exchanged("all-to-all", tensor, sent, received);
  }
  void do_broadcast(at::Tensor& tensor, int64_t root) override {
    const at::NoGradGuard off;
    std::vector<at::Tensor> bytes = {as_bytes(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    if (bytes[0].numel() > 0) complete("broadcast", [&] { return backend_->broadcast(bytes, options); });
  }

  std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) override {
    const at::NoGradGuard off;
    std::vector<PendingWorks::Message> messages;
    for (const Transfer& transfer : transfers) {
      std::vector<at::Tensor> bytes = {as_bytes(transfer.tensor)};
      const bool sends = transfer.direction == Transfer::Direction::send;
      const int peer = static_cast<int>(transfer.peer);
      const int64_t global = options_.members[static_cast<size_t>(transfer.peer)];
      std::string what = format("{} rank {} over {} ranks [{}]", sends ? "send to" : "receive from", global, options_.name, ranks_);
      messages.push_back({sends ? backend_->send(bytes, peer, 0) : backend_->recv(bytes, peer, 0), std::move(what), global, bytes[0]});
    }
    return std::make_unique<PendingWorks>(std::move(messages), options_.life);
  }

  const c10::intrusive_ptr<c10d::Backend> backend_;
  const ProcessGroupOptions options_;
  const std::string ranks_;
};

}  // namespace

std::shared_ptr<Group> process_group(c10::intrusive_ptr<c10d::Backend> backend, ProcessGroupOptions options) {
  return std::make_shared<ProcessGroup>(std::move(backend), std::move(options));
}

}  // namespace ponte
