// Bringing tokens together by expert and back: a counting sort of the (token, choice) pairs, and the two row movements it takes, which are each other's
// transposes. The order is fixed: by expert, then by token, whatever the number of threads.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/grouped_gemm.h"

namespace ponte {

// S tokens, K choices each, E experts, P pairs that have rows (those with an expert).
struct Permutation {
  ExpertRows rows;
  at::Tensor token_P;  // int64: whose row this is
  at::Tensor pair_P;   // int64: token x K + choice
  at::Tensor row_SK;   // int64: the row of each pair; -1: not sent
};

// experts_SK: int64 in [0, E), or -1 for a pair that goes nowhere.
Permutation permutation_of(const at::Tensor& experts_SK, int64_t E);
// The same without leaving a device or waiting for it: only the device knows the experts' rows, and pairs that go nowhere have rows too, behind all others.
Permutation permutation_on_device(const at::Tensor& experts_SK, int64_t E);
// The host knows the experts' rows, and only pairs with an expert have rows; waits for a device. The meta device, which has no values, is taken to have
// `expected` such pairs, as many of each expert.
Permutation known_to_host(Permutation permutation, int64_t expected);

// y_PH[p] = x_SH[token_P[p]].
at::Tensor gather_tokens(const at::Tensor& x_SH, const at::Tensor& token_P);
// y_SH[s] = sum over k of x_PH[row_SK[s, k]], in the order of k, added in fp32 (fp64 for fp64); pairs not sent add nothing.
at::Tensor sum_rows(const at::Tensor& x_PH, const at::Tensor& row_SK);

at::Tensor sum_rows_reference(const at::Tensor& x_PH, const at::Tensor& row_SK);

}  // namespace ponte
