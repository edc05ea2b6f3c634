#include "convert/flat_state.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/checked.h"
#include "base/errors.h"

namespace ponte {
namespace {

constexpr std::string_view kFirst = "optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(";
constexpr int64_t kAlignment = 64;  // of a parameter's first element in its bucket

// The order in which a transformer layer's modules register their parameters.
constexpr std::string_view kLeaves[] = {"self_attention.linear_proj.weight",
                                        "self_attention.linear_proj.bias",
                                        "self_attention.linear_qkv.layer_norm_weight",
                                        "self_attention.linear_qkv.weight",
                                        "self_attention.linear_qkv.bias",
                                        "self_attention.q_layernorm.weight",
                                        "self_attention.k_layernorm.weight",
                                        "mlp.linear_fc1.layer_norm_weight",
                                        "mlp.linear_fc1.weight",
                                        "mlp.linear_fc2.weight"};

// Place in a walk over the whole model: embedding, layers, final norm, output layer.
std::pair<int64_t, int64_t> registration_order(const Rule& rule, const std::string& what) {
  if (rule.stack == "decoder.layers") {
    const auto leaf = std::find(std::begin(kLeaves), std::end(kLeaves), rule.leaf);
    require(leaf != std::end(kLeaves) && rule.expert < 0, "{}: flat optimizer state (dp_reshardable) of {}: this version reads that of dense models only", what,
            rule.name());
    return {1 + rule.layer, leaf - std::begin(kLeaves)};
  }
  if (rule.leaf == "embedding.word_embeddings.weight") return {0, 0};
  require(rule.leaf == "decoder.final_layernorm.weight" || rule.leaf == "output_layer.weight",
          "{}: flat optimizer state (dp_reshardable) of {}: this version reads that of dense models only", what, rule.name());
  constexpr int64_t kAfterLayers = int64_t{1} << 40;
  return {kAfterLayers, rule.leaf == "output_layer.weight" ? 1 : 0};
}

int64_t elements_of(const Rule& rule) { return checked_numel(rule.shape, rule.leaf); }

}  // namespace

bool FlatState::present(const TorchDistReader& reader) {
  return std::any_of(reader.tensors().begin(), reader.tensors().end(), [](const TorchDistTensor& t) { return t.name.starts_with(kFirst); });
}

FlatState::FlatState(const TorchDistReader& reader, const RuleTable& table) : reader_(reader) {
  const std::string what = reader.directory().string();
  std::map<int64_t, std::string> keys;
  for (const TorchDistTensor& tensor : reader.tensors()) {
    if (!tensor.name.starts_with("optimizer.distributed.")) continue;
    require(tensor.name.starts_with(kFirst),
            "{}: '{}': flat optimizer state (dp_reshardable) of several model-parallel ranks or optimizers; this version reads "
            "that of one. Megatron writes state any layout reads with --dist-ckpt-optim-fully-reshardable",
            what, tensor.name);
    const size_t at = tensor.name.rfind(".bucket_idx_"), end = tensor.name.rfind('.');
    int64_t bucket = -1;
    if (at != std::string::npos && end > at + 12) std::from_chars(tensor.name.data() + at + 12, tensor.name.data() + end, bucket);
    require(bucket >= 0 && tensor.shape.size() == 1 && tensor.dtype == DType::f32, "{}: '{}': a flat fp32 bucket was expected", what, tensor.name);
    keys.emplace(bucket, tensor.name.substr(0, end + 1));
  }
  for (const auto& [bucket, key] : keys) {
    require(bucket == static_cast<int64_t>(buckets_.size()), "{}: bucket {} of the optimizer state is missing", what, buckets_.size());
    buckets_.push_back(key);
  }
  std::vector<const Rule*> order;
  for (const Rule& rule : table.rules) order.push_back(&rule);
  std::stable_sort(order.begin(), order.end(), [&](const Rule* a, const Rule* b) { return registration_order(*b, what) < registration_order(*a, what); });
  size_t bucket = 0;
  int64_t end = 0;
  for (const Rule* rule : order) {
    const int64_t elements = elements_of(*rule);
    int64_t begin = (end + kAlignment - 1) / kAlignment * kAlignment;
    if (bucket < buckets_.size() && end > 0 && end == reader.at(buckets_[bucket] + "param").shape[0]) {
      ++bucket;
      begin = 0;
    }
    require(bucket < buckets_.size() && begin + elements <= reader.at(buckets_[bucket] + "param").shape[0],
            "{}: the parameters of this model do not fill the buckets of its optimizer state: {} has no place", what, rule->name());
    places_[rule->name()] = {bucket, begin, elements};
    end = begin + elements;
  }
  require(bucket + 1 == buckets_.size() && end == reader.at(buckets_[bucket] + "param").shape[0],
          "{}: the parameters of this model do not fill the buckets of its optimizer state", what);
}

std::vector<FlatState::Piece> FlatState::pieces(std::string_view kind, const Rule& rule) const {
  const auto found = places_.find(rule.name());
  require(found != places_.end(), "{}: no optimizer state for {}", reader_.directory(), rule.name());
  const Place& place = found->second;
  const TorchDistTensor& tensor = reader_.at(buckets_[place.bucket] + std::string(kind));
  require(tensor.shape.size() == 1 && tensor.dtype == DType::f32 && place.begin + place.elements <= tensor.shape[0],
          "{}: '{}' has shape {}, too short", reader_.directory(), tensor.name, tensor.shape);
  std::vector<Piece> out;
  for (const TorchDistChunk& chunk : tensor.chunks) {
    const int64_t first = std::max(chunk.offsets[0], place.begin), last = std::min(chunk.offsets[0] + chunk.sizes[0], place.begin + place.elements);
    if (first < last) out.push_back({reader_.bytes(tensor, chunk), first - chunk.offsets[0], first - place.begin, last - first});
  }
  return out;
}

std::vector<std::byte> FlatState::read(std::string_view kind, const Rule& rule) const {
  constexpr int64_t kBytes = sizeof(float);
  std::vector<std::byte> out(static_cast<size_t>(elements_of(rule) * kBytes));
  for (const Piece& piece : pieces(kind, rule))
    std::memcpy(out.data() + piece.begin * kBytes, piece.bytes.bytes.data() + piece.first * kBytes, static_cast<size_t>(piece.elements * kBytes));
  return out;
}

}  // namespace ponte
