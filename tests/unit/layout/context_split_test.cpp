// Which rank has which tokens of a row under context parallelism.
#include "layout/context_split.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/errors.h"

namespace ponte {
namespace {

TEST(ContextSplit, OneChunkFromEachEnd) {
  using Places = std::vector<int64_t>;
  EXPECT_EQ(context_tokens(8, 0, 2), (Places{0, 1, 6, 7}));
  EXPECT_EQ(context_tokens(8, 1, 2), (Places{2, 3, 4, 5}));
  EXPECT_EQ(context_tokens(6, 1, 3), (Places{1, 4}));
  EXPECT_EQ(context_tokens(3, 0, 1), (Places{0, 1, 2}));
  EXPECT_EQ(context_order(8, 2), (Places{0, 1, 6, 7, 2, 3, 4, 5}));
}

// Everybody's tokens are all tokens, and causal attention costs every rank the same.
TEST(ContextSplit, CoversTheRowEvenly) {
  for (const int64_t size : {2, 3, 4, 8})
    for (const int64_t chunk : {1, 3, 5}) {
      const int64_t tokens = 2 * size * chunk;
      std::vector<int64_t> all = context_order(tokens, size);
      std::sort(all.begin(), all.end());
      for (int64_t i = 0; i < tokens; ++i) EXPECT_EQ(all[static_cast<size_t>(i)], i);
      for (int64_t rank = 0; rank < size; ++rank) {
        int64_t seen = 0;
        for (const int64_t place : context_tokens(tokens, rank, size)) seen += place + 1;
        EXPECT_EQ(seen * size, tokens * (tokens + 1) / 2);
      }
    }
}

TEST(ContextSplit, WhatDoesNotDivideIsRefused) { EXPECT_THROW(context_tokens(10, 0, 2), UserError); }

}  // namespace
}  // namespace ponte
