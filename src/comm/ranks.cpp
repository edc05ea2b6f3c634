#include "comm/ranks.h"

#include <ATen/ATen.h>
#include <c10/util/Logging.h>
#include <net/if.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/errors.h"
#include "comm/gloo.h"
#include "comm/life.h"
#include "comm/nccl.h"
#include "comm/patience.h"
#include "comm/port.h"
#include "comm/process_group.h"

namespace ponte {
namespace {

using Milliseconds = std::chrono::milliseconds;
using Store = c10::intrusive_ptr<c10d::Store>;

class SingleRank final : public Ranks {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  std::shared_ptr<Group> group(const std::string&, const std::vector<int64_t>&) override { return single_group(); }
  Group& world() override { return *single_group(); }
  void phase(std::string) override {}
  void failed(std::string_view) override {}
};

constexpr const char* kMisfit = "misfit";
std::string text_of(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }
std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

class Processes final : public Ranks {
 public:
  Processes(const LaunchEnvironment& launch, Patience patience, const at::Device& device)
      : rank_(launch.rank), size_(launch.world_size), device_(device), timeout_(patience.in_a_collective), interface_(launch.network_interface),
        gloo_{timeout_, launch.network_interface, is_loopback(launch.master_address)}, store_(open_store(launch, patience)),
        life_(std::make_shared<Life>(store_->clone(), rank_, size_, timeout_)) {
    wait_for_all(patience.to_meet);
    std::vector<int64_t> everyone;
    for (int64_t r = 0; r < size_; ++r) everyone.push_back(r);
    world_ = group("world", everyone);
  }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  Group& world() override { return *world_; }
  void phase(std::string name) override { life_->phase(std::move(name)); }
  void failed(std::string_view message) override { life_->failed(message); }

  std::shared_ptr<Group> group(const std::string& name, const std::vector<int64_t>& members) override {
    if (members.size() == 1) return single_group();
    const auto place = std::find(members.begin(), members.end(), rank_);
    PONTE_ASSERT(place != members.end());
    if (world_ && static_cast<int64_t>(members.size()) == size_ && std::is_sorted(members.begin(), members.end())) return world_;
    const auto mine = static_cast<int64_t>(place - members.begin());
    const auto own_store = c10::make_intrusive<c10d::PrefixStore>(format("{}/{}", name, members.front()), store_);
    const std::string what = format("the rendezvous of {} ranks {}", name, members);
    const Life::Waiting waiting(*life_, what);
    try {
      const auto size = static_cast<int64_t>(members.size());
      Backends backends{gloo_backend(own_store, mine, size, gloo_), {}, {}};
      const auto nccl = [&](const char* name) { return nccl_backend(c10::make_intrusive<c10d::PrefixStore>(name, own_store), mine, size, timeout_); };
      if (device_.is_cuda()) backends.device = nccl("nccl"), backends.device_back = nccl("nccl back");
      return process_group(std::move(backends), {name, members, mine, life_});
    } catch (const c10::Error& error) {
      fail("{} ({})", life_->why_lost(what, members), error.what_without_backtrace());
    } catch (const std::exception& error) {
      fail("{} ({})", life_->why_lost(what, members), error.what());
    }
  }

 private:
  static Store open_store(const LaunchEnvironment& launch, Patience patience) {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(launch.master_port);
    options.isServer = launch.rank == 0 && !launch.launcher_has_store;
    options.waitWorkers = false;
    options.timeout = patience.to_meet;
    // A client of c10d that finds nobody would try for twice its time, and say so in the log; one that finds another program waits without end.
    if (options.isServer || answers_by(launch.master_address, launch.master_port, std::chrono::steady_clock::now() + patience.to_meet)) {
      try {
        using Opened = c10::intrusive_ptr<c10d::TCPStore>;
        const std::optional<Opened> store = answer_within<Opened>(
            patience.to_meet, [address = launch.master_address, options] { return c10::make_intrusive<c10d::TCPStore>(address, options); });
        if (store) {
          (*store)->setTimeout(patience.in_a_collective);
          return c10::make_intrusive<c10d::PrefixStore>(store_prefix(launch.restarts), *store);
        }
      } catch (const std::exception&) {
        require(!options.isServer, "rank 0: port {} of {} (MASTER_PORT, MASTER_ADDR) cannot be served; another run on this machine?", launch.master_port,
                launch.master_address);
      }
    }
    fail("rank {}: no store of this run answers at {}:{} (MASTER_ADDR, MASTER_PORT) within {} s; it is served by {}", launch.rank, launch.master_address,
         launch.master_port, static_cast<double>(patience.to_meet.count()) / 1000, launch.launcher_has_store ? "the launcher" : "rank 0");
  }

  // One that cannot take part leaves word of it before it joins, so that all who wait for it read that.
  void wait_for_all(Milliseconds timeout) {
    std::vector<std::string> keys;
    for (int64_t r = 0; r < size_; ++r) keys.push_back(format("joined/{}", r));
    try {
      const std::vector<uint8_t> none, mine = bytes_of(std::to_string(size_)), told = store_->compareSet("ranks", none, mine);
      std::string misfit;
      if (told != mine) misfit = format("rank {} was told of {} ranks, another of {}", rank_, size_, text_of(told));
      else if (!interface_.empty() && ::if_nametoindex(interface_.c_str()) == 0)
        misfit = format("rank {}: GLOO_SOCKET_IFNAME is {}, and its machine has no network interface of that name", rank_, interface_);
      if (!misfit.empty()) store_->set(kMisfit, bytes_of(misfit));
      require(store_->add(keys[static_cast<size_t>(rank_)], 1) == 1, "two processes joined as rank {} of {}", rank_, size_);
      if (told == mine) store_->wait(keys, timeout);
      if (store_->check({kMisfit})) throw UserError(text_of(store_->get(kMisfit)));
    } catch (const c10::Error&) {
      fail("rank {}: {}", rank_, who_did_not_join(keys, timeout));
    }
  }

  std::string who_did_not_join(const std::vector<std::string>& keys, Milliseconds timeout) {
    std::vector<int64_t> absent;
    try {
      for (int64_t r = 0; r < size_; ++r)
        if (!store_->check({keys[static_cast<size_t>(r)]})) absent.push_back(r);
    } catch (const c10::Error&) {
      return "the store of this run closed while ranks were joining: the rank that holds it (rank 0, or the launcher) has ended";
    }
    return format("ranks {} of {} did not join this run within {} s", absent, size_, static_cast<double>(timeout.count()) / 1000);
  }

  const int64_t rank_, size_;
  const at::Device device_;
  const Milliseconds timeout_;
  const std::string interface_;  // "": none named
  const GlooOptions gloo_;
  const Store store_;
  const std::shared_ptr<Life> life_;
  std::shared_ptr<Group> world_;
};

}  // namespace

std::string store_prefix(int64_t restarts) { return format("ponte/{}", restarts); }

std::unique_ptr<Ranks> Ranks::join(const LaunchEnvironment& launch, Patience patience, const at::Device& device) {
  if (!environment("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_ERROR;  // what c10d warns of with a stack trace is said here in words
  return launch.world_size == 1 ? single() : std::make_unique<Processes>(launch, patience, device);
}

std::unique_ptr<Ranks> Ranks::single() { return std::make_unique<SingleRank>(); }

Groups mesh_groups(Ranks& ranks, const Mesh& mesh) {
  return groups_of(mesh, ranks.rank(), [&](const std::string& name, const std::vector<int64_t>& members) { return ranks.group(name, members); });
}

std::vector<std::string> gather_text(Group& group, const std::string& mine) {
  if (group.size() == 1) return {mine};
  const at::Tensor lengths = group.all_gather(at::full({1}, static_cast<int64_t>(mine.size()), at::kLong));
  const std::span<const int64_t> rows(lengths.const_data_ptr<int64_t>(), static_cast<size_t>(lengths.numel()));
  at::Tensor bytes = at::empty({static_cast<int64_t>(mine.size())}, at::kByte);
  std::copy(mine.begin(), mine.end(), static_cast<char*>(bytes.data_ptr()));  // memcpy may not be given the null pointer of an empty tensor
  const at::Tensor all = group.all_gather_rows(bytes, rows);
  std::vector<std::string> out;
  const char* at = static_cast<const char*>(all.const_data_ptr());
  for (const int64_t length : rows) {
    out.emplace_back(at, static_cast<size_t>(length));
    at += length;
  }
  return out;
}

void agree(Group& group, const std::function<void()>& body) {
  if (group.size() == 1) return body();
  std::string mine;  // "": all is well
  try {
    body();
  } catch (const std::exception& error) {
    mine = error.what();
  }
  const std::vector<std::string> all = gather_text(group, mine);
  if (std::all_of(all.begin(), all.end(), [](const std::string& text) { return text.empty(); })) return;
  if (std::all_of(all.begin(), all.end(), [&](const std::string& text) { return text == all[0]; })) throw AgreedError(all[0]);
  std::vector<std::string> lines;
  for (size_t r = 0; r < all.size(); ++r)
    if (!all[r].empty()) lines.push_back(format("rank {}: {}", r, all[r]));
  throw AgreedError(join(lines, "\n  "));
}

}  // namespace ponte
