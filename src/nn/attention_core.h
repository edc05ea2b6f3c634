// The attention between the heads of one layer: the seam behind which a row's tokens may be spread over context-parallel ranks. Inputs and results are
// those of this rank's tokens.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "comm/group.h"
#include "kernels/attention.h"

namespace ponte {

// Which tokens stand in the rows, and what they may see.
struct TokenView {
  int64_t B = 0, T = 0;           // of this rank
  at::Tensor document_starts_BT;  // place in the whole row where each token's document begins; undefined: one document per row
  std::optional<int64_t> window;
};

class AttentionCore {
 public:
  virtual ~AttentionCore() = default;
  // The ranks a row is spread over.
  virtual std::shared_ptr<Group> context() const = 0;
  virtual AttentionResult forward(const at::Tensor& q_BNTD, const at::Tensor& k_BGTD, const at::Tensor& v_BGTD, const TokenView& tokens,
                                  double scale) const = 0;
  virtual AttentionGradients backward(const at::Tensor& dout_BTND, const at::Tensor& q_BNTD, const at::Tensor& k_BGTD, const at::Tensor& v_BGTD,
                                      const AttentionResult& result, const TokenView& tokens, double scale) const = 0;
};

// Rows are whole on this rank.
std::shared_ptr<const AttentionCore> local_attention();
// Rows spread as layout/context_split.h says. type: "p2p" passes keys and values around a ring and merges what each block gives (Liu et al. 2023, Ring
// Attention); "all_gather" brings all keys and values here; "a2a" trades tokens for heads (Jacobs et al. 2023, DeepSpeed-Ulysses); "a2a+p2p" trades them
// among neighbours (groups.context_inner) and passes keys and values around a ring of those with the same heads (groups.context_outer). A group of one:
// local. UserError for any other type.
std::shared_ptr<const AttentionCore> attention_core(const std::string& type, const Groups& groups);

}  // namespace ponte
