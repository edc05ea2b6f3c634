#include "convert/packing.h"

#include <algorithm>

#include "base/errors.h"
#include "convert/native_config.h"

namespace ponte {
namespace {

constexpr const char* kWayOut = "Export the model to Hugging Face with ms-swift and import that";

// The unit of a segment whose first parts are cut by head: a piece of each such part in turn, then the parts that are not cut.
std::vector<RowRun> pieces_in_turn(const Segment& segment) {
  std::vector<RowRun> runs;
  int64_t stored = 0;
  for (int64_t unit = 0; unit < segment.shape[0]; unit += segment.unit) {
    const int64_t pieces = segment.parts[0].rows / segment.parts[0].unit;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      int64_t start = unit;
      for (const UnitPart& part : segment.parts) {
        if (part.unit > 0) runs.push_back({start + piece * part.unit, part.unit, stored});
        stored += part.unit;
        start += part.rows;
      }
    }
    runs.push_back({stored, unit + segment.unit - stored, stored});  // what is not cut ends the unit in both
    stored = unit + segment.unit;
  }
  return runs;
}

// Segments [first, last) of a rule in one tensor, packed by head: where segment `index` lies.
PackedSegment packed_by_head(const Rule& rule, std::string leaf, size_t first, size_t last, size_t index) {
  PackedSegment out{std::move(leaf), {}, 0};
  int64_t per_head = 0, before = 0;
  for (size_t s = first; s < last; ++s) {
    if (s < index) before += rule.segments[s].unit;
    per_head += rule.segments[s].unit;
    out.rows += rule.segments[s].shape[0];
  }
  const Segment& segment = rule.segments[index];
  for (int64_t head = 0; head * segment.unit < segment.shape[0]; ++head)
    out.runs.push_back({head * segment.unit, segment.unit, head * per_head + before});
  return out;
}

PackedSegment end_to_end(const Rule& rule, size_t index) {
  PackedSegment out{rule.leaf, {}, rule.shape[0]};
  int64_t before = 0;
  for (size_t s = 0; s < index; ++s) before += rule.segments[s].shape[0];
  out.runs = {{0, rule.segments[index].shape[0], before}};
  return out;
}

std::string replaced_end(const std::string& leaf, std::string_view end, std::string_view with) {
  return leaf.ends_with(end) ? leaf.substr(0, leaf.size() - end.size()) + std::string(with) : leaf;
}

// Norms that are modules of their own there.
std::string packed_leaf(const std::string& leaf, Packing packing) {
  if (packing == Packing::by_head) return leaf;
  const std::string out = replaced_end(leaf, "self_attention.in_proj.layer_norm_weight", "input_layernorm.weight");
  if (packing == Packing::by_head_in_two) return out;
  for (const auto& [end, with] : {std::pair("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
                                  {"mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"},
                                  {"self_attention.out_norm.weight", "self_attention.norm.weight"}})
    if (out.ends_with(end)) return replaced_end(out, end, with);
  return out;
}

// What ms-swift writes into its arguments of a run whose weights Megatron Bridge laid out.
bool laid_out_by_bridge(const Value& args, const std::string& origin) {
  const Value* backend = args.find("bridge_backend");
  return backend && backend->kind() == Value::Kind::text && backend->as_text(origin) == "megatron-bridge";
}

// Gated attention without a delta net: the names are the same in both orders. ms-swift writes torch_dist alone, even where it trains by Megatron-FSDP
// (swift/megatron/utils/megatron_lm_utils.py, save_mcore_checkpoint), so fsdp_dtensor is Megatron's.
Packing packing_of_attention(const TorchDistReader& reader, const fs::path& directory) {
  if (std::ranges::any_of(reader.tensors(), [](const TorchDistTensor& tensor) { return tensor.name.starts_with("model.module."); })) return Packing::megatron;
  if (fs::exists(directory / kKeptFolder / "config.json") || fs::exists(directory / "run_config.yaml")) return Packing::megatron;
  const std::optional<Value> common = reader.common_state();
  const Value* args = common ? common->find("args") : nullptr;
  require(args != nullptr,
          "{}: gated attention whose order of rows nothing tells: Megatron keeps the gates of a group behind its queries, mcore-bridge (ms-swift) each beside "
          "its query, under the same name. {}",
          directory, kWayOut);
  const bool of_swift = args->find("tuner_type") || args->find("mcore_model") || args->find("bridge_backend");
  return of_swift && !laid_out_by_bridge(*args, directory.string() + ": args") ? Packing::by_head : Packing::megatron;
}

}  // namespace

PackedSegment packed_segment(const Rule& rule, size_t index, Packing packing) {
  if (packing == Packing::megatron) return {rule.leaf, {}, 0};
  const Segment& segment = rule.segments[index];
  if (rule.leaf == "self_attention.in_proj.weight") {
    if (packing == Packing::by_head) return packed_by_head(rule, rule.leaf, 0, rule.segments.size(), index);
    const size_t ba = rule.segments.size() - 2;  // beta and alpha
    return index < ba ? packed_by_head(rule, "self_attention.in_proj_qkvz.weight", 0, ba, index)
                      : packed_by_head(rule, "self_attention.in_proj_ba.weight", ba, rule.segments.size(), index);
  }
  if (rule.leaf == "self_attention.conv1d.weight")
    return packing == Packing::huggingface_modules ? end_to_end(rule, index) : packed_by_head(rule, rule.leaf, 0, rule.segments.size(), index);
  if (segment.parts.size() > 1 && segment.parts[1].unit > 0) return {rule.leaf, pieces_in_turn(segment), segment.shape[0]};
  return {packed_leaf(rule.leaf, packing), {}, 0};
}

Packing packing_of(const TorchDistReader& reader, const ModelConfig& config, const fs::path& directory) {
  if (!config.attention_output_gate) return Packing::megatron;
  const auto some = [&](std::string_view end) {
    return std::ranges::any_of(reader.tensors(), [&](const TorchDistTensor& tensor) {
      return tensor.name.ends_with(end) && !tensor.name.starts_with("optimizer.");
    });
  };
  for (const TorchDistTensor& tensor : reader.tensors())
    require(!tensor.name.starts_with("language_model."),
            "{}: '{}' is of a model with a vision tower, as mcore-bridge (ms-swift) stores it; only models of text are converted", directory, tensor.name);
  if (some(".self_attention.in_proj.weight")) return Packing::by_head;
  if (some(".self_attention.in_proj_qkvz.weight")) {
    if (!some(".self_attention.norm.weight")) return Packing::by_head_in_two;
    require(!some(".self_attention.linear_qkv.layer_norm_weight"),
            "{}: a delta net stored as Hugging Face's module beside 'linear_qkv.layer_norm_weight' is how ms-swift of 2025 kept Qwen3-Next, its norms larger "
            "by one than Megatron's; nothing in the checkpoint says by which version, so it is not read. {}",
            directory, kWayOut);
    return Packing::huggingface_modules;
  }
  const bool nets = std::ranges::find(config.layer_types, "linear_attention") != config.layer_types.end();
  return nets ? Packing::megatron : packing_of_attention(reader, directory);
}

}  // namespace ponte
