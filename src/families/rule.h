// The rule table's vocabulary: where every element of a live (Megatron) parameter lies in Hugging Face's tensors.
//
// A live parameter is an ordered list of named segments, concatenated on dim 0. A segment is an index map: strided boxes, each tying one HF
// tensor to a set of the segment's elements. A transpose or an interleave is only a choice of strides, so the inverse of a copy swaps its ends and
// nothing is ever written twice. Everything here describes the whole parameter (one tensor-parallel rank); layout/placement.h cuts it for a rank,
// convert/dialect.h names it on disk.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace ponte {

using Shape = std::vector<int64_t>;

// One loop of a box: `extent` steps, each moving `hf_stride` elements in the HF tensor and `native_step` along the segment's dim `native_dim`.
// Several axes may move along one native dim; then they nest: sorted by step, extent x step of one is at most the step of the next.
struct BoxAxis {
  int64_t extent, hf_stride, native_dim, native_step;
};

// Element (i_0, i_1, ...) of a box: HF element hf_origin + sum(i_a x hf_stride_a), segment coordinate native_origin[d] + sum over axes of dim d of
// (i_a x native_step_a).
struct Box {
  int64_t source;       // index into Rule::sources
  int64_t hf_origin;    // in elements
  Shape native_origin;  // one coordinate for each dim of the segment
  std::vector<BoxAxis> axes;
};

// One stretch of a shard unit. `unit` > 0: may be cut in pieces of `unit` rows over ranks that share the unit; 0: every sharing rank holds it all.
struct UnitPart {
  int64_t rows, unit;
};

inline constexpr int64_t kReplicated = -1;

struct Segment {
  std::string name;               // "gate", "query", ...; "" when the parameter has one
  Shape shape;
  int64_t shard_dim = kReplicated;
  int64_t unit = 1;               // rows along shard_dim that stay together: a head, a query group
  std::vector<UnitPart> parts;    // how a unit is shared when there are more ranks than units (query groups); empty: that is an error
  bool padded = false;            // vocabulary rows: padded with zeros at run time to divide over ranks, never on disk
  std::vector<Box> boxes;
};

struct Source {
  std::string name;  // HF tensor
  Shape shape;       // as it must be
};

enum class Arithmetic { copy, minus_one };       // minus_one: native = hf - 1 (a zero-centred norm whose HF twin is centred on one)
enum class Precision { follows, fp32 };           // fp32: never cast, and kept fp32 in a model of any parameter dtype
// What a rank's gradient of a replicated parameter is, seen from tensor parallelism. by_tokens: the parameter acts on the residual stream, so copies
// agree unless sequence parallelism splits the tokens. by_heads: it acts on each rank's own heads, so a rank's gradient is always a partial sum.
enum class ReplicatedGradient { by_tokens, by_heads };
enum class SegmentKeys { joined, separate };      // torch_dist: segments are chunks of one tensor, or tensors "<key>.<segment>" of their own

struct Rule {
  // Live name: "<stack>.<layer>.<leaf>" (with layer >= 0) or "<leaf>", and for an expert the number appended: "...linear_fc1.weight5".
  std::string stack;          // "decoder.layers"; "" for parameters outside the layers
  int64_t layer = -1, layer_count = 0;
  std::string leaf;           // "self_attention.linear_qkv.weight"
  int64_t expert = -1, expert_count = 0;

  Shape shape;                // whole parameter
  std::vector<Segment> segments;
  std::vector<Source> sources;
  Arithmetic arithmetic = Arithmetic::copy;
  Precision precision = Precision::follows;
  ReplicatedGradient replicated_gradient = ReplicatedGradient::by_tokens;
  SegmentKeys segment_keys = SegmentKeys::joined;

  std::string name() const;   // Megatron's live name
  bool is_optimized() const;  // false: no optimizer moves it or has state of it (the balancing bias of a router's experts)
};

// An HF tensor that adds nothing: when present its bytes must equal `same_as`'s; it is not written on export (tied head).
struct Alias {
  std::string hf_name, same_as;
};

// A module whose Transformer Engine twin stores an `_extra_state` object; megatron-core's strict loader wants it in every checkpoint.
struct ExtraState {
  std::string stack;
  int64_t layer = -1, layer_count = 0;
  std::string leaf;           // module: "self_attention.linear_qkv"
  int64_t expert = -1, expert_count = 0;
};

struct RuleTable {
  std::vector<Rule> rules;    // in the order of a forward pass
  std::vector<Alias> aliases;
  std::vector<ExtraState> extra_state;
  bool homogeneous = true;    // layers are alike: torch_dist stacks them as [L, ...] and the experts as [L, E, ...]

  const Rule& find(std::string_view live_name) const;  // UserError naming the nearest when there is none
};

// HF tensors present in a checkpoint, name to shape: what the model has is read from here. Empty: the layout transformers writes by default.
using HfTensors = std::map<std::string, Shape, std::less<>>;

}  // namespace ponte
