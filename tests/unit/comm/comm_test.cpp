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

TEST(ThreadGroup, AFailingRankReleasesTheOthers) {
  EXPECT_THROW(run_tensor_parallel(3,
                                   [](const Groups& groups) {
                                     if (groups.tensor->rank() == 1) fail("rank 1 gives up");
                                     at::Tensor t = mine(0);
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
