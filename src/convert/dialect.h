// Dialects: what a live parameter is called on disk and which tensor it is a part of. Pure naming and chunking; element order is the rule's business.
// Source: the sharded_state_dict methods of megatron/core/transformer and the keys of checkpoints written by Megatron Bridge.
#pragma once
#include "families/rule.h"

namespace ponte {

enum class Container { torch_dist, fsdp_dtensor };
// stacked: "decoder.layers.mlp.linear_fc2.weight" [L, ...], experts [L, E, ...]; numbered: "decoder.layers.3.mlp.linear_fc2.weight".
enum class LayerKeys { stacked, numbered };

// Order and names of what gated delta nets and gated attention have (convert/packing.h). megatron: as everything that is written; the others are read.
// by_head: one in_proj; by_head_in_two: in_proj_qkvz and in_proj_ba; huggingface_modules: a delta net as HF's module has it, each norm a module of its own.
enum class Packing { megatron, by_head, by_head_in_two, huggingface_modules };

struct Dialect {
  Container container = Container::torch_dist;
  LayerKeys layer_keys = LayerKeys::stacked;
  Packing packing = Packing::megatron;
  // The norm before a layer's experts is a module of its own; layers that Megatron builds without Transformer Engine (--transformer-impl local) give it the
  // name that Transformer Engine's give the norm before a dense MLP (gpt_layer_specs.py, sharded_state_dict_keys_map). Read, never written.
  bool local_norms = false;
};

// `rows` rows of a segment from `native` on are the stored ones from `stored` on.
struct RowRun {
  int64_t native, rows, stored;
};

// Where a segment of a parameter lies: its element (c0, c1, ...) is element (prefix..., row + c0, c1, ...) of the stored tensor `key`; with runs, the one
// that the run holding c0 says.
struct StoredSegment {
  std::string key;
  Shape shape;   // of the stored tensor
  Shape prefix;  // layer, expert
  int64_t row = 0;
  std::vector<RowRun> runs;  // empty: one run
};

StoredSegment stored_segment(const Rule& rule, size_t segment, Dialect dialect);
// The parameter as Megatron-FSDP's optimizer names it: "module.module.module.decoder.layers.3.mlp.linear_fc1.weight".
std::string fsdp_parameter(const Rule& rule);
// Key of model-shaped optimizer state beside the weight stored as `weight_key`. kind: "param" (the fp32 main parameter, which Megatron-FSDP keeps as the
// weight itself), "exp_avg", "exp_avg_sq", "step" (fsdp_dtensor only).
std::string state_key(const std::string& weight_key, std::string_view kind, Container container);
// "optimizer.state.exp_avg." -> "exp_avg"; "" for other prefixes.
std::string_view state_kind(std::string_view prefix);
// Key of the model-shaped tensor of this prefix beside (or, without a prefix, of) the weight stored as `weight_key`.
std::string prefixed_key(std::string_view prefix, const std::string& weight_key, Container container);
// "decoder.layers.mlp.linear_fc1._extra_state/shard_3_28"
std::string extra_state_key(const ExtraState& module, Dialect dialect);
// torch_dist as Megatron writes this model.
Dialect dialect_of(const RuleTable& table);

}  // namespace ponte
