// Collectives over threads, and the differentiable pair's transposes.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/errors.h"
#include "comm/region.h"
#include "comm/thread_group.h"

namespace ponte {
namespace {

at::Tensor mine(int64_t rank, int64_t rows = 4) { return at::arange(rows * 3, at::kDouble).view({rows, 3}) + 100 * rank; }

TEST(ThreadGroup, Collectives) {
  for (const int64_t size : {1, 2, 3}) run_tensor_parallel(size, [&](const Groups& groups) {
    Group& g = *groups.tensor;
    const int64_t r = g.rank();
    ASSERT_EQ(g.size(), size);
    at::Tensor sum = mine(r), largest = mine(r), from_last = mine(r), wanted = at::zeros({4, 3}, at::kDouble);
    for (int64_t i = 0; i < size; ++i) wanted += mine(i);
    g.all_reduce(sum, ReduceOp::sum);
    g.all_reduce(largest, ReduceOp::max);
    g.broadcast(from_last, size - 1);
    EXPECT_TRUE(at::equal(sum, wanted));
    EXPECT_TRUE(at::equal(largest, mine(size - 1)));
    EXPECT_TRUE(at::equal(from_last, mine(size - 1)));
    const at::Tensor all = g.all_gather(mine(r));
    for (int64_t i = 0; i < size; ++i) EXPECT_TRUE(at::equal(all.narrow(0, 4 * i, 4), mine(i)));
    at::Tensor whole = at::zeros({2 * size, 3}, at::kDouble);
    for (int64_t i = 0; i < size; ++i) whole += mine(i, 2 * size);
    EXPECT_TRUE(at::equal(g.reduce_scatter_sum(mine(r, 2 * size)), whole.narrow(0, 2 * r, 2)));
    g.barrier();
  });
}

// Rank r sends r + 2 s rows to rank s, rows that say where they come from and go to.
at::Tensor letters(int64_t from, int64_t to) { return at::full({from + 2 * to, 2}, 10.0 * from + to, at::kDouble); }

TEST(ThreadGroup, PartsOfDifferentLength) {
  for (const int64_t size : {1, 2, 3}) run_tensor_parallel(size, [&](const Groups& groups) {
    Group& g = *groups.tensor;
    const int64_t r = g.rank();
    std::vector<at::Tensor> sent, wanted, everybody;
    std::vector<int64_t> sent_rows, received_rows, rows;
    for (int64_t i = 0; i < size; ++i) {
      sent.push_back(letters(r, i));
      wanted.push_back(letters(i, r));
      everybody.push_back(mine(i, i));
      sent_rows.push_back(r + 2 * i);
      received_rows.push_back(i + 2 * r);
      rows.push_back(i);
    }
    EXPECT_TRUE(at::equal(g.all_to_all(at::cat(sent), sent_rows, received_rows), at::cat(wanted)));
    EXPECT_TRUE(at::equal(g.all_gather_rows(mine(r, r), rows), at::cat(everybody)));
    const int64_t total = size * (size - 1) / 2;
    at::Tensor sum = at::zeros({total, 3}, at::kDouble);
    for (int64_t i = 0; i < size; ++i) sum += mine(i, total);
    EXPECT_TRUE(at::equal(g.reduce_scatter_sum_rows(mine(r, total), rows), sum.narrow(0, r * (r - 1) / 2, r)));
  });
}

// Around a ring, twice: messages of a pair stay in order, and nobody waits for a receiver.
TEST(ThreadGroup, Messages) {
  using enum Transfer::Direction;
  run_tensor_parallel(3, [&](const Groups& groups) {
    Group& g = *groups.tensor;
    const int64_t next = (g.rank() + 1) % 3, previous = (g.rank() + 2) % 3;
    at::Tensor first = at::empty({4, 3}, at::kDouble), second = at::empty({2, 3}, at::kDouble);
    const auto pending = g.transfer(std::vector<Transfer>{{send, next, mine(g.rank())}, {receive, previous, first}});
    g.transfer(std::vector<Transfer>{{send, next, mine(g.rank(), 2)}})->wait();
    const auto later = g.transfer(std::vector<Transfer>{{receive, previous, second}});
    later->wait();  // a receive takes the message of its turn, whenever it is waited for
    pending->wait();
    EXPECT_TRUE(at::equal(first, mine(previous)));
    EXPECT_TRUE(at::equal(second, mine(previous, 2)));
  });
}

TEST(ThreadGroup, TrafficIsCounted) {
  run_tensor_parallel(2, [&](const Groups& groups) {
    Group& g = *groups.tensor;
    at::Tensor t = mine(0);  // 96 bytes
    g.all_reduce(t, ReduceOp::sum);
    g.all_reduce(t, ReduceOp::max);
    g.all_gather(t);
    g.reduce_scatter_sum(t);
    g.all_to_all(t, std::vector<int64_t>{2, 2}, std::vector<int64_t>{2, 2});
    const auto check = [&](Collective kind, int64_t calls, int64_t bytes) {
      EXPECT_EQ(g.traffic(kind).calls, calls);
      EXPECT_EQ(g.traffic(kind).bytes, bytes);
    };
    check(Collective::all_reduce, 2, 192);
    check(Collective::all_gather, 1, 192);
    check(Collective::reduce_scatter, 1, 96);
    check(Collective::all_to_all, 1, 48);
    check(Collective::transfer, 0, 0);
  });
}

TEST(ThreadGroup, RanksOfAMeshMeetInTheirGroups) {
  const Mesh mesh({.tensor = 2, .context = 4, .data = 2, .pipeline = 2, .expert = 8, .expert_tensor = 1, .context_inner = 2});
  run_ranks(mesh, [&](Groups groups) {
    for (int64_t k = 0; k < kGroupKinds; ++k) {
      const auto kind = static_cast<GroupKind>(k);
      const std::vector<int64_t> ranks = mesh.group(kind, groups.world->rank());
      const at::Tensor seen = groups[kind]->all_gather(at::full({1}, groups.world->rank(), at::kLong));
      EXPECT_TRUE(at::equal(seen, at::tensor(ranks, at::kLong))) << name_of(kind);
    }
    EXPECT_EQ(groups.tensor_context.get() == groups.expert.get(), true);  // the same ranks, one group
  });
}

TEST(ThreadGroup, AFailingRankReleasesTheOthers) {
  EXPECT_THROW(run_tensor_parallel(3,
                                   [](const Groups& groups) {
                                     if (groups.tensor->rank() == 1) fail("rank 1 gives up");
                                     at::Tensor t = mine(0);
                                     groups.tensor->all_reduce(t, ReduceOp::sum);
                                   }),
               UserError);
}

TEST(ThreadGroup, AFailingRankReleasesAReceiver) {
  EXPECT_THROW(run_ranks(Mesh({.tensor = 2, .pipeline = 2}),
                         [](const Groups& groups) {
                           if (groups.world->rank() == 3) fail("rank 3 gives up");
                           at::Tensor t = mine(0);
                           if (groups.pipeline->rank() == 0) groups.pipeline->transfer(std::vector<Transfer>{{Transfer::Direction::receive, 1, t}})->wait();
                           groups.tensor->all_reduce(t, ReduceOp::sum);
                         }),
               UserError);
}

// Forward and backward of each map by value: what ranks 0 and 1 hold is mine(0) and mine(1).
TEST(TensorRegion, EntersAndLeaves) {
  const at::Tensor total = mine(0) + mine(1), both = at::cat({mine(0), mine(1)});
  run_tensor_parallel(2, [&](const Groups& groups) {
    const int64_t r = groups.tensor->rank();
    const auto check = [&](Residual residual, bool entering, const at::Tensor& forward, const at::Tensor& dy, const at::Tensor& backward) {
      const TensorRegion region{groups.tensor, residual};
      const at::Tensor x = mine(r).requires_grad_(true), y = entering ? region.enter(x) : region.leave(x);
      EXPECT_TRUE(at::equal(y, forward));
      y.backward(dy);
      EXPECT_TRUE(at::equal(x.grad(), backward));
    };
    check(Residual::replicated, true, mine(r), mine(r), total);
    check(Residual::replicated, false, total, mine(5), mine(5));
    check(Residual::token_sharded, true, both, mine(r, 8), (mine(0, 8) + mine(1, 8)).narrow(0, 4 * r, 4));
    check(Residual::token_sharded, false, total.narrow(0, 2 * r, 2), mine(r, 2), at::cat({mine(0, 2), mine(1, 2)}));
  });
}

}  // namespace
}  // namespace ponte
