// Self-speculation: the prediction layers (mtp.h) guess the tokens that follow, the model reads its next token and the guesses in one pass, and what
// it would not have said is taken back. Depth k guesses the k-th token; beyond the last depth, that one is run again on its own guesses. Source:
// DeepSeek-V3 report, section 2.2; Leviathan et al. 2023 (the scheme).
#pragma once
#include <vector>

#include "model/kv_cache.h"
#include "model/model.h"

namespace ponte {

// B rows, each a sequence; V vocabulary. A round: guess(certain tokens), guess(first guesses), ..., check(last guesses), keep(...).
class Speculation {
 public:
  // At most `guesses` (one or more) in a round. UserError when the model has no prediction layers, or its angles depend on the length of the sequence.
  Speculation(Model& model, int64_t rows, int64_t max_tokens, int64_t guesses);
  // The prompts, right-padded: fp32 logits [B, V] after each.
  at::Tensor read(const at::Tensor& tokens_BT, const std::vector<int64_t>& counts);
  // Appends a token to each row's round, its first one certain, and gives fp32 logits [B, V] of what a prediction layer expects after it.
  at::Tensor guess(const std::vector<int64_t>& tokens_B);
  // Appends the last token and runs the model over the round's R tokens: its logits [B, R, V] after each.
  at::Tensor check(const std::vector<int64_t>& tokens_B);
  struct Kept {
    int64_t row, tokens;  // of the round, from its first on
  };
  // Ends the round. Rows that are not named leave; the others are numbered anew in this order.
  void keep(const std::vector<Kept>& rows);

 private:
  // Per row. Places 0..read-1 of its tokens are in the model's cache.
  struct Row {
    std::vector<int64_t> tokens;  // all, the round's included
    int64_t read = 0;
    at::Tensor hidden_TH;         // the model's, of the places from first on: what the prediction layers have not read, or only with guesses after it
    int64_t first = 0;
  };
  at::Tensor run_depth(size_t depth, const at::Tensor& hidden_BTH, const std::vector<int64_t>& counts, int64_t ahead);

  Model& model_;
  int64_t depths_;             // of prediction layers in use
  KvCache cache_;
  std::vector<KvCache> depth_caches_;
  std::vector<Row> rows_;
  int64_t round_ = 0;          // tokens of the round so far
  at::Tensor hidden_BTH_;      // of the latest pass: the model's after read and check, a depth's after guess
  std::vector<int64_t> counts_;  // real tokens of its rows
};

}  // namespace ponte
