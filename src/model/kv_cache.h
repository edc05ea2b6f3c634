// What a generation remembers of the tokens it has seen; one row per sequence, each with its own length: keys and values of full
// attention, the state of linear attention.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "nn/gated_delta_net.h"

namespace ponte {

class Model;
struct DecoderLayer;
struct ModelOptions;

class KvCache {
 public:
  // Room for max_tokens per row, in the model's dtype and on its device.
  KvCache(const Model& model, int64_t rows, int64_t max_tokens);
  // Of other layers than the model's own.
  KvCache(std::span<const DecoderLayer> layers, const ModelOptions& options, int64_t rows, int64_t max_tokens);

  int64_t rows() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t max_tokens() const { return max_tokens_; }
  int64_t length(int64_t row) const { return lengths_[row]; }  // tokens seen
  const std::vector<int64_t>& lengths() const { return lengths_; }
  // Forgets the tokens from `length` on and returns how many are left: `length`, or 0 where linear attention has no way back (multi-turn prompts).
  int64_t truncate(int64_t row, int64_t length);
  void clear();
  // From now on a pass of at most this many tokens a row can be taken back in part. Costs linear attention its states after each of them but the last.
  void allow_take_back(int64_t tokens) { take_back_tokens_ = tokens; }
  // Forgets the last `tokens` of what the row appended in its latest pass, which appended more than that.
  void take_back(int64_t row, int64_t tokens);
  // Room for at least this many tokens per row from now on; what is cached stays. Room doubles, so that growing token by token costs little.
  void make_room(int64_t tokens);
  // Keeps these rows in this order (finished sequences leave a batch; a prompt is fanned out to several samples).
  void select_rows(const std::vector<int64_t>& rows);

  // Per layer of full attention: key and value, [rows, key/value heads of this rank, max_tokens, head dimension].
  at::Tensor& keys(int64_t layer) { return keys_[layer]; }
  at::Tensor& values(int64_t layer) { return values_[layer]; }
  // Per layer of linear attention; contents mean nothing while a row's length is 0.
  GatedDeltaMemory& memory(int64_t layer) { return memories_[layer]; }
  // Where a pass of T tokens a row leaves what it remembers after each of them but the last (row by row, as memory); empty when it is not to be taken back.
  std::span<GatedDeltaMemory> trail(int64_t layer, int64_t T);
  void advance(int64_t row, int64_t tokens);

 private:
  int64_t max_tokens_, take_back_tokens_ = 0;
  std::vector<int64_t> lengths_, appended_;  // appended_: in the latest pass
  std::vector<at::Tensor> keys_, values_;  // undefined in layers of linear attention
  std::vector<GatedDeltaMemory> memories_; // undefined in layers of full attention
  std::vector<std::vector<GatedDeltaMemory>> trails_;  // per layer and token of a pass; empty until one can be taken back
};

}  // namespace ponte
