// Who holds which tokens of a row under context parallelism: rank r the r-th chunk from the front and the r-th from the back of 2 x size equal ones, so that
// causal attention costs every rank the same. Source: megatron/core/utils.py, get_batch_on_this_cp_rank.
#pragma once
#include <cstdint>
#include <vector>

namespace ponte {

// Places in the row of this rank's tokens, ascending. UserError when the row does not divide into 2 x size chunks.
std::vector<int64_t> context_tokens(int64_t row_tokens, int64_t rank, int64_t size);
// Places of everybody's tokens, rank after rank.
std::vector<int64_t> context_order(int64_t row_tokens, int64_t size);

}  // namespace ponte
