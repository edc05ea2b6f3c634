// Groups of real processes.
#include "process_testing.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "base/format.h"
#include "comm/life.h"
#include "comm/process_group.h"

namespace ponte {
namespace {

using namespace std::chrono_literals;

at::Tensor noise(int64_t rank, std::vector<int64_t> shape, at::ScalarType type) {
  auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(100 + rank));
  return at::randn(shape, generator, at::kFloat).to(type);
}

// The definition: in rank order.
at::Tensor sum_of(int64_t size, const std::vector<int64_t>& shape, at::ScalarType type) {
  at::Tensor out = noise(0, shape, type);
  for (int64_t r = 1; r < size; ++r) out = out + noise(r, shape, type);
  return out;
}

TEST(ProcessGroup, CollectivesAreTheSumsInRankOrderToTheBit) {
  const auto body = [](Ranks& ranks) {
    Group& g = ranks.world();
    const int64_t size = ranks.size(), rank = ranks.rank();
    ASSERT_EQ(g.rank(), rank);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble})
      for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {1}, {2, 3}, {1001, 7}}) {
        at::Tensor sum = noise(rank, shape, type), copy = noise(rank, shape, type);
        g.all_reduce(sum, ReduceOp::sum);
        EXPECT_TRUE(at::equal(sum, sum_of(size, shape, type)));
        g.broadcast(copy, size - 1);
        EXPECT_TRUE(at::equal(copy, noise(size - 1, shape, type)));
      }
    const at::Tensor all = g.all_gather(noise(rank, {4, 3}, at::kBFloat16));
    for (int64_t r = 0; r < size; ++r) EXPECT_TRUE(at::equal(all.narrow(0, 4 * r, 4), noise(r, {4, 3}, at::kBFloat16)));
    EXPECT_TRUE(at::equal(g.reduce_scatter_sum(noise(rank, {2 * size, 3}, at::kFloat)), sum_of(size, {2 * size, 3}, at::kFloat).narrow(0, 2 * rank, 2)));
    std::vector<int64_t> rows, sent, received;
    std::vector<at::Tensor> parts;
    for (int64_t r = 0; r < size; ++r) {
      rows.push_back(r);
      sent.push_back(rank + r);
      received.push_back(r + rank);
      parts.push_back(noise(r, {r, 5}, at::kFloat));
    }
    EXPECT_TRUE(at::equal(g.all_gather_rows(noise(rank, {rank, 5}, at::kFloat), rows), at::cat(parts)));
    const int64_t total = size * (size - 1) / 2;
    EXPECT_TRUE(at::equal(g.reduce_scatter_sum_rows(noise(rank, {total, 5}, at::kFloat), rows),
                          sum_of(size, {total, 5}, at::kFloat).narrow(0, rank * (rank - 1) / 2, rank)));
    const int64_t out = size * rank + total;
    EXPECT_EQ(g.all_to_all(at::full({out, 2}, rank, at::kLong), sent, received).sum().item<int64_t>(), [&] {
      int64_t want = 0;
      for (int64_t r = 0; r < size; ++r) want += 2 * r * (r + rank);
      return want;
    }());
    const std::vector<std::string> texts = gather_text(g, std::string(static_cast<size_t>(rank), 'x'));
    for (int64_t r = 0; r < size; ++r) EXPECT_EQ(static_cast<int64_t>(texts[static_cast<size_t>(r)].size()), r);
    g.barrier();
  };
  for (const int64_t size : {2, 3}) EXPECT_EQ(run_processes(size, 60s, body), std::vector<int>(static_cast<size_t>(size), 0));
}

// Several under way in one group, others between, waited for in any order, or not at all.
TEST(ProcessGroup, StartedCollectivesGiveTheSameLater) {
  const auto body = [](Ranks& ranks) {
    Group& g = ranks.world();
    const int64_t rank = ranks.rank(), size = ranks.size();
    std::vector<int64_t> rows, even(static_cast<size_t>(size), 2);
    for (int64_t r = 0; r < size; ++r) rows.push_back(1000 * r);  // rank 0 brings nothing
    const at::Tensor mine = noise(rank, {rows[static_cast<size_t>(rank)], 3}, at::kFloat), line = noise(rank, {2 * size, 3}, at::kFloat);
    auto first = g.start_all_gather_rows(mine, rows), dropped = g.start_all_gather_rows(mine, rows), second = g.start_all_gather_rows(mine + 1, rows);
    auto sum = g.start_reduce_scatter_sum_rows(line, even), exchanged = g.start_all_to_all(line, even, even);
    dropped.reset();
    at::Tensor between = line.clone();
    g.all_reduce(between, ReduceOp::sum);
    EXPECT_TRUE(at::equal(exchanged->wait(), g.all_to_all(line, even, even)));
    EXPECT_TRUE(at::equal(second->wait(), g.all_gather_rows(mine + 1, rows)));
    EXPECT_TRUE(at::equal(sum->wait(), between.narrow(0, 2 * rank, 2)));
    EXPECT_TRUE(at::equal(first->wait(), g.all_gather_rows(mine, rows)));
  };
  EXPECT_EQ(run_processes(3, 60s, body), std::vector<int>(3, 0));
}

TEST(ProcessGroup, GroupsOfAMeshAndMessages) {
  const auto body = [](Ranks& ranks) {
    const Groups groups = mesh_groups(ranks, Mesh(MeshSizes{.tensor = 2, .pipeline = 2}));
    EXPECT_EQ(groups.tensor->rank(), ranks.rank() % 2);
    EXPECT_EQ(groups.pipeline->rank(), ranks.rank() / 2);
    at::Tensor sum = at::full({1}, ranks.rank(), at::kLong);
    groups.tensor->all_reduce(sum, ReduceOp::sum);
    EXPECT_EQ(sum.item<int64_t>(), ranks.rank() < 2 ? 1 : 5);
    const int64_t peer = 1 - groups.pipeline->rank();
    at::Tensor first = at::empty({3}, at::kFloat), second = at::empty({2}, at::kLong);
    const Transfer transfers[] = {{Transfer::Direction::send, peer, at::full({3}, 7.0 + ranks.rank())},
                                  {Transfer::Direction::receive, peer, first},
                                  {Transfer::Direction::send, peer, at::full({2}, ranks.rank(), at::kLong)},
                                  {Transfer::Direction::receive, peer, second}};
    groups.pipeline->transfer(transfers)->wait();
    const int64_t from = (ranks.rank() + 2) % 4;
    EXPECT_EQ(first[0].item<double>(), 7.0 + static_cast<double>(from));
    EXPECT_EQ(second[1].item<int64_t>(), from);
  };
  EXPECT_EQ(run_processes(4, 60s, body), std::vector<int>(4, 0));
}

// A back end that only writes down what it is asked.
class Listing final : public c10d::Backend {
 public:
  Listing(std::string name, std::vector<std::string>& said) : Backend(1, 4), name_(std::move(name)), said_(said) {}
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>&, int peer, int) override { return say("to", peer); }
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>&, int peer, int) override { return say("from", peer); }

 private:
  struct Done : c10d::Work {
    bool wait(std::chrono::milliseconds) override { return true; }
  };
  c10::intrusive_ptr<c10d::Work> say(const char* way, int peer) {
    said_.push_back(format("{} {} {}", name_, way, peer));
    return c10::make_intrusive<Done>();
  }
  const std::string name_;
  std::vector<std::string>& said_;
};

TEST(ProcessGroup, MessagesOfADeviceHaveAWayThereAndAWayBackInOneOrderForAll) {
  std::vector<std::string> said;
  const Backends backends{c10::make_intrusive<Listing>("host", said), c10::make_intrusive<Listing>("there", said), c10::make_intrusive<Listing>("back", said)};
  const auto group = process_group(backends, {"ring", {0, 1, 2, 3}, 1, std::make_shared<Life>(c10::make_intrusive<c10d::HashStore>(), 1, 4, 60s)});
  const at::Tensor device = at::empty({3}, at::kMeta), host = at::empty({3});
  const Transfer transfers[] = {{Transfer::Direction::receive, 2, device}, {Transfer::Direction::send, 2, device}, {Transfer::Direction::send, 0, device},
                                {Transfer::Direction::send, 3, host},      {Transfer::Direction::receive, 0, host}, {Transfer::Direction::receive, 0, device}};
  group->transfer(transfers)->wait();
  EXPECT_EQ(said, (std::vector<std::string>{"host from 0", "there from 0", "back to 0", "there to 2", "back from 2", "host to 3"}));
}

TEST(ProcessGroup, AnErrorOnOneRankIsEveryonesError) {
  const auto body = [](Ranks& ranks) {
    agree(ranks.world(), [] {});
    for (const bool everywhere : {false, true}) {
      std::string message;
      try {
        agree(ranks.world(), [&] { require(!everywhere && ranks.rank() != 1, "the disk is full"); });
      } catch (const AgreedError& error) {
        message = error.what();
      }
      EXPECT_EQ(message, everywhere ? "the disk is full" : "rank 1: the disk is full");
    }
  };
  EXPECT_EQ(run_processes(3, 60s, body), std::vector<int>(3, 0));
}

// Whoever comes after the one it does not fit with says so; exit status 2 here.
TEST(ProcessGroup, ProcessesThatDoNotFitAreRefused) {
  const auto joins = [](std::chrono::seconds to_meet, std::string_view words) {
    return [=](const LaunchEnvironment& launch) {
      try {
        Ranks::join(launch, {to_meet, 60s})->world().barrier();
      } catch (const UserError& error) {
        const std::string said = error.what();
        if (said.find(words) != std::string::npos) ::_exit(2);
        EXPECT_NE(said.find("did not join this run within"), std::string::npos) << said;
      }
    };
  };
  std::vector<int> twice = fork_ranks({{0, 2}, {1, 2}, {1, 2}}, joins(60s, "two processes joined as rank 1 of 2"));
  std::sort(twice.begin(), twice.end());
  EXPECT_EQ(twice, (std::vector<int>{0, 0, 2}));
  const std::vector<int> other = fork_ranks({{0, 2}, {1, 4}}, joins(2s, "was told of"));
  EXPECT_GT(std::count(other.begin(), other.end(), 2), 0);
  EXPECT_EQ(std::count(other.begin(), other.end(), 1), 0);
}

TEST(ProcessGroup, ANetworkInterfaceThatOneMachineLacksStopsAllBeforeTheyConnect) {
  const std::vector<int> ends = fork_ranks({{0, 3}, {1, 3}, {2, 3}}, [](const LaunchEnvironment& launch) {
    LaunchEnvironment mine = launch;
    if (mine.rank == 1) mine.network_interface = "nowhere0";
    try {
      Ranks::join(mine, {60s, 60s});
    } catch (const UserError& error) {
      ::_exit(std::string(error.what()).starts_with("rank 1: GLOO_SOCKET_IFNAME is nowhere0") ? 2 : 3);
    }
  });
  EXPECT_EQ(ends, (std::vector<int>{2, 2, 2}));
}

// A port that is taken and never answers, whether or not it lets others in: rank 0, which would serve the store there, does not come.
TEST(ProcessGroup, WithoutAStoreARankSaysWhereItLooked) {
  for (const bool listening : {false, true}) {
    const int taken = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    socklen_t length = sizeof address;
    ASSERT_EQ(::bind(taken, reinterpret_cast<sockaddr*>(&address), length), 0);
    ASSERT_EQ(::getsockname(taken, reinterpret_cast<sockaddr*>(&address), &length), 0);
    if (listening) {
      ASSERT_EQ(::listen(taken, 8), 0);
    }
    LaunchEnvironment launch;
    launch.rank = 1;
    launch.world_size = 2;
    launch.master_port = ntohs(address.sin_port);
    std::string said;
    try {
      Ranks::join(launch, {300ms, 60s});
    } catch (const UserError& error) {
      said = error.what();
    }
    ::close(taken);
    EXPECT_TRUE(said.starts_with("rank 1: no store of this run answers at ")) << said;
    EXPECT_NE(said.find(format(":{} (MASTER_ADDR, MASTER_PORT) within 0.3 s; it is served by rank 0", launch.master_port)), std::string::npos) << said;
  }
}

}  // namespace
}  // namespace ponte
