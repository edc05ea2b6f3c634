#include "convert/flat_layout.h"

#include <algorithm>
#include <tuple>

#include "base/checked.h"
#include "base/errors.h"

namespace ponte {
namespace {

constexpr int64_t kAlignment = 64;  // of a parameter's first element in its bucket

// The order in which a transformer layer's modules register their parameters, a prediction layer's own around them.
constexpr std::string_view kLeaves[] = {"enorm.weight",
                                        "hnorm.weight",
                                        "eh_proj.weight",
                                        "self_attention.dt_bias",
                                        "self_attention.A_log",
                                        "self_attention.in_proj.layer_norm_weight",
                                        "self_attention.in_proj.weight",
                                        "self_attention.conv1d.weight",
                                        "self_attention.out_norm.weight",
                                        "self_attention.out_proj.weight",
                                        "self_attention.linear_proj.weight",
                                        "self_attention.linear_proj.bias",
                                        "self_attention.linear_qkv.layer_norm_weight",
                                        "self_attention.linear_qkv.weight",
                                        "self_attention.linear_qkv.bias",
                                        "self_attention.q_layernorm.weight",
                                        "self_attention.k_layernorm.weight",
                                        "pre_mlp_layernorm.weight",
                                        "mlp.router.weight",
                                        "mlp.experts.linear_fc1.weight",
                                        "mlp.experts.linear_fc2.weight",
                                        "mlp.shared_experts.gate_weight",
                                        "mlp.shared_experts.linear_fc1.weight",
                                        "mlp.shared_experts.linear_fc2.weight",
                                        "mlp.linear_fc1.layer_norm_weight",
                                        "mlp.linear_fc1.weight",
                                        "mlp.linear_fc2.weight",
                                        "final_layernorm.weight"};
constexpr std::string_view kEmbedding = "embedding.word_embeddings.weight", kFinalNorm = "decoder.final_layernorm.weight", kOutput = "output_layer.weight";

constexpr std::string_view kAttention = kLeaves[3], kFirst = "mlp.experts.linear_fc1.weight", kSecond = "mlp.experts.linear_fc2.weight";

int64_t place_of(std::string_view leaf) { return std::find(std::begin(kLeaves), std::end(kLeaves), leaf) - std::begin(kLeaves); }

using Order = std::tuple<int64_t, int64_t, int64_t>;
Order order_in_layer(const Rule& rule, FlatOrder order) {
  std::string_view leaf = rule.leaf;
  if (rule.stack == "mtp.layers" && leaf.starts_with("mtp_model_layer.")) leaf.remove_prefix(std::string_view("mtp_model_layer.").size());
  const int64_t place = place_of(leaf);
  require(place < std::ssize(kLeaves), "flat optimizer state (dp_reshardable) of {}: this version knows no place for it", rule.name());
  if (order.separate_norms && leaf.starts_with("self_attention.") && leaf.ends_with(".layer_norm_weight")) return {rule.layer, place_of(kAttention), -2};
  if (order.single_experts && (leaf == kFirst || leaf == kSecond)) return {rule.layer, place_of(kFirst), 2 * rule.expert + (leaf == kSecond)};
  return {rule.layer, place, rule.expert};
}

// One parameter of a chunk of layers. copy: a stage's own copy of another stage's embedding, which says nothing new.
struct Content {
  const Rule* rule;
  bool copy = false;
};
using Contents = std::vector<Content>;

// The model in the order of registration, to be cut into chunks of layers.
class Walk {
 public:
  Walk(const RuleTable& table, FlatOrder registered) {
    std::vector<std::pair<Order, const Rule*>> decoder, prediction;
    const Rule *norm = nullptr, *output = nullptr;
    for (const Rule& rule : table.rules) {
      if (!rule.is_optimized()) continue;
      if (rule.leaf == kEmbedding) embedding_ = &rule;
      else if (rule.leaf == kFinalNorm) norm = &rule;
      else if (rule.leaf == kOutput) output = &rule;
      else (rule.stack == "mtp.layers" ? prediction : decoder).push_back({order_in_layer(rule, registered), &rule});
    }
    PONTE_ASSERT(embedding_ && norm);
    std::sort(decoder.begin(), decoder.end());
    std::sort(prediction.begin(), prediction.end());
    for (const auto& [order, rule] : decoder) {
      require(rule->stack == "decoder.layers", "flat optimizer state (dp_reshardable) of {}: this version knows no place for it", rule->name());
      layers_.resize(std::max<size_t>(layers_.size(), static_cast<size_t>(rule->layer) + 1));
      layers_[static_cast<size_t>(rule->layer)].push_back({rule});
    }
    end_.push_back({norm});
    for (const auto& [order, rule] : prediction) end_.push_back({rule});
    predicts_ = !prediction.empty();
    output_ = output ? output : embedding_;
  }

  int64_t layers() const { return std::ssize(layers_); }
  // Layers [begin, end), before them the embedding (of the first chunk, and a copy of it where prediction layers want one), after them (in the last chunk)
  // the rest.
  Contents chunk(bool first, int64_t begin, int64_t end, bool last) const {
    Contents out;
    if (first || (last && predicts_)) out.push_back({embedding_, !first});
    for (auto layer = layers_.begin() + begin; layer != layers_.begin() + end; ++layer) out.insert(out.end(), layer->begin(), layer->end());
    if (!last) return out;
    out.insert(out.end(), end_.begin(), end_.end());
    if (output_ != embedding_) out.push_back({output_});
    else if (!first) out.push_back({embedding_, true});  // tied: the last stage keeps a copy
    return out;
  }

 private:
  const Rule* embedding_ = nullptr;
  const Rule* output_ = nullptr;  // the embedding where they are tied
  bool predicts_ = false;
  std::vector<Contents> layers_;
  Contents end_;
};

bool is_replicated(const Rule& rule) {
  return std::all_of(rule.segments.begin(), rule.segments.end(), [](const Segment& segment) { return segment.shard_dim == kReplicated; });
}

// Lays contents over buffers, for all tensor-parallel ranks of one size.
class Filler {
 public:
  Filler(const FlatModel& model, int64_t size) : model_(model), size_(size) {}

  // Whether `contents` fill the buffers of `rank` from number `next` on exactly, and how many they fill. `places`: nullptr, or what to add to.
  std::optional<size_t> fill(const FlatRank& rank, size_t next, const Contents& contents, int64_t number, FlatLayout* places) {
    std::vector<std::pair<DType, Contents>> types;  // in the order in which they first appear
    for (const Content& content : contents) {
      const DType dtype = model_.dtype(*content.rule);
      auto type = std::find_if(types.begin(), types.end(), [&](const auto& one) { return one.first == dtype; });
      if (type == types.end()) type = types.insert(types.end(), {dtype, {}});
      type->second.push_back(content);
    }
    for (const auto& [dtype, own] : types) {
      if (next >= rank.size() || rank[next].dtype != dtype || !fill_buffer(rank[next], own, number, places)) return std::nullopt;
      ++next;
    }
    return next;
  }

 private:
  int64_t elements(const Rule& rule) {
    const auto [found, fresh] = elements_.emplace(&rule, -1);
    if (!fresh) return found->second;
    if (const auto slice = flat_slice(model_, rule, 0, size_)) found->second = checked_numel(slice->shape, rule.leaf);
    return found->second;
  }

  bool fill_buffer(const FlatBuffer& buffer, const Contents& contents, int64_t number, FlatLayout* places) {
    const std::vector<FlatBucket>& buckets = buffer.buckets;
    size_t bucket = 0;
    int64_t end = 0;
    for (size_t i = contents.size(); i-- > 0;) {
      const Rule& rule = *contents[i].rule;
      const int64_t count = elements(rule);
      int64_t begin = (end + kAlignment - 1) / kAlignment * kAlignment;
      if (end > 0 && (end == buckets[bucket].elements || begin == buckets[bucket].elements)) {
        ++bucket;
        begin = 0;
      }
      if (count < 0 || bucket >= buckets.size() || count > buckets[bucket].elements - begin) return false;
      if (places && !contents[i].copy && (number == 0 || !is_replicated(rule)))
        (*places)[rule.name()].push_back({number, size_, buckets[bucket].key, begin, count});
      end = begin + count;
    }
    return bucket + 1 == buckets.size() && end == buckets[bucket].elements;
  }

  const FlatModel& model_;
  int64_t size_;
  std::map<const Rule*, int64_t> elements_;
};

struct Chunk {
  int64_t stage, begin, end;
  bool first, last;
};

// Cuts the model into chunks as the dense buffers have room: chunk after chunk goes to the stages in turn. Empty where that does not come out.
std::vector<Chunk> cut_chunks(const FlatOptimizers& optimizers, const Walk& walk, const FlatModel& model, FlatDivision division, bool with_experts,
                              FlatLayout& places, std::string& why) {
  Filler filler(model, division.tensor);
  std::vector<size_t> next(optimizers.dense.size(), 0);
  std::vector<Chunk> out;
  int64_t layer = 0;
  const auto fits = [&](const Chunk& chunk, FlatLayout* to) {
    Contents contents = walk.chunk(chunk.first, chunk.begin, chunk.end, chunk.last);
    if (!with_experts) std::erase_if(contents, [](const Content& content) { return content.rule->expert >= 0; });
    if (contents.empty()) return false;
    for (int64_t rank = 0; rank < division.tensor; ++rank) {
      const auto number = static_cast<size_t>(chunk.stage * division.tensor + rank);
      const auto after = filler.fill(optimizers.dense[number], next[number], contents, rank, to);
      if (!after) return false;
      if (to) next[number] = *after;
    }
    return true;
  };
  for (bool done = false; !done;) {
    std::optional<Chunk> found;
    for (int64_t end = layer; end <= walk.layers() && !found; ++end)
      for (const bool last : {false, true}) {
        const Chunk chunk{std::ssize(out) % division.pipeline, layer, end, out.empty(), last};
        if ((!last || end == walk.layers()) && fits(chunk, nullptr)) found = chunk;
        if (found) break;
      }
    if (!found) {
      why = format("no number of layers from {} on fills the buckets of pipeline stage {}", layer, std::ssize(out) % division.pipeline);
      return {};
    }
    fits(*found, &places);
    layer = found->end;
    done = found->last;
    out.push_back(*found);
  }
  for (size_t rank = 0; rank < next.size(); ++rank)
    if (next[rank] != optimizers.dense[rank].size()) {
      why = format("rank {} has more buckets than the model fills", rank);
      return {};
    }
  return out;
}

// Experts of several ranks, in an optimizer of their own: each expert-parallel rank of a stage has its experts of the stage's layers.
bool lay_experts(const FlatOptimizers& optimizers, const Walk& walk, const FlatModel& model, FlatDivision division, const std::vector<Chunk>& chunks,
                 FlatLayout& places, std::string& why) {
  Filler filler(model, division.expert_tensor);
  std::vector<size_t> next(optimizers.experts.size(), 0);
  for (const Chunk& chunk : chunks)
    for (int64_t expert = 0; expert < division.expert; ++expert) {
      Contents contents = walk.chunk(chunk.first, chunk.begin, chunk.end, chunk.last);
      std::erase_if(contents, [&](const Content& content) {
        return content.rule->expert < 0 || content.rule->expert * division.expert / content.rule->expert_count != expert;
      });
      if (contents.empty()) continue;
      for (int64_t rank = 0; rank < division.expert_tensor; ++rank) {
        const auto number = static_cast<size_t>((chunk.stage * division.expert + expert) * division.expert_tensor + rank);
        const auto after = filler.fill(optimizers.experts[number], next[number], contents, rank, &places);
        if (!after) {
          why = format("the experts of layers {} to {} do not fill the buckets of expert-parallel rank {}", chunk.begin, chunk.end - 1, number);
          return false;
        }
        next[number] = *after;
      }
    }
  for (size_t rank = 0; rank < next.size(); ++rank)
    if (next[rank] != optimizers.experts[rank].size()) {
      why = format("expert-parallel rank {} has more buckets than the model's experts fill", rank);
      return false;
    }
  return true;
}

}  // namespace

std::vector<FlatOrder> flat_orders(const RuleTable& table) {
  std::vector<FlatOrder> out;
  const bool experts = std::any_of(table.rules.begin(), table.rules.end(), [](const Rule& rule) { return rule.expert >= 0; });
  for (const bool separate_norms : {false, true})
    for (const bool single_experts : {false, true})
      if (experts || !single_experts) out.push_back({separate_norms, single_experts});
  return out;
}

std::vector<FlatDivision> flat_divisions(const FlatOptimizers& optimizers) {
  const int64_t dense = std::ssize(optimizers.dense), experts = std::ssize(optimizers.experts);
  std::vector<FlatDivision> out;
  for (int64_t tensor = 1; tensor <= dense; ++tensor) {
    if (dense % tensor != 0) continue;
    const int64_t pipeline = dense / tensor, each = experts / pipeline;
    if (experts == 0) out.push_back({tensor, pipeline, 1, tensor});
    if (experts == 0 || experts % pipeline != 0) continue;
    for (int64_t expert_tensor = 1; expert_tensor <= each; ++expert_tensor)
      if (each % expert_tensor == 0) out.push_back({tensor, pipeline, each / expert_tensor, expert_tensor});
  }
  return out;
}

std::optional<Slice> flat_slice(const FlatModel& model, const Rule& rule, int64_t rank, int64_t size) {
  Slice slice;
  slice.rank = rank;
  for (const Segment& segment : rule.segments) {
    SegmentSlice cut;
    cut.shape = segment.shape;
    if (segment.shard_dim == kReplicated) {
      cut.intervals = {{0, segment.shape[0], 0, size}};
    } else {
      const int64_t extent = segment.shape[segment.shard_dim], padded = segment.padded ? model.padded_rows(rule) : extent;
      if (padded % size != 0) return std::nullopt;
      const int64_t rows = padded / size, begin = std::min(rank * rows, extent), end = std::min(begin + rows, extent);
      cut.intervals = {{begin, end, rank, 1}};
      cut.padding = rows - (end - begin);
      cut.shape[segment.shard_dim] = rows;
    }
    append_segment(slice, std::move(cut));
  }
  return slice;
}

std::optional<FlatLayout> flat_layout(const FlatOptimizers& optimizers, const FlatModel& model, FlatOrder order, FlatDivision division, std::string& why) {
  const Walk walk(model.table, order);
  FlatLayout places;
  const std::vector<Chunk> chunks = cut_chunks(optimizers, walk, model, division, optimizers.experts.empty(), places, why);
  if (chunks.empty() || (!optimizers.experts.empty() && !lay_experts(optimizers, walk, model, division, chunks, places, why))) return std::nullopt;
  return places;
}

}  // namespace ponte
