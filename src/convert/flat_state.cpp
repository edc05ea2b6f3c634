#include "convert/flat_state.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <tuple>

#include "base/checked.h"
#include "base/errors.h"

namespace ponte {
namespace {

constexpr int64_t kAlignment = 64;  // of a parameter's first element in its bucket

// The order in which a transformer layer's modules register their parameters.
constexpr std::string_view kLeaves[] = {"self_attention.dt_bias",
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
                                        "mlp.linear_fc2.weight"};

// Place in a walk over the whole model: embedding, layers, final norm, output layer.
using Order = std::tuple<int64_t, int64_t, int64_t>;
Order registration_order(const Rule& rule, const std::string& what) {
  constexpr int64_t kAfterLayers = int64_t{1} << 40;
  if (rule.leaf == "embedding.word_embeddings.weight") return {0, 0, 0};
  if (rule.leaf == "decoder.final_layernorm.weight") return {kAfterLayers, 0, 0};
  if (rule.leaf == "output_layer.weight") return {kAfterLayers, 1, 0};
  const auto leaf = std::find(std::begin(kLeaves), std::end(kLeaves), rule.leaf);
  require(rule.stack == "decoder.layers" && leaf != std::end(kLeaves),
          "{}: flat optimizer state (dp_reshardable) of {}: this version knows no place for it", what, rule.name());
  return {1 + rule.layer, leaf - std::begin(kLeaves), rule.expert};
}

int64_t elements_of(const Rule& rule) { return checked_numel(rule.shape, rule.leaf); }

// A number that follows `label` in `name`; nullopt where there is none.
std::optional<int64_t> number_after(std::string_view name, std::string_view label) {
  const size_t at = name.find(label);
  if (at == std::string_view::npos) return std::nullopt;
  int64_t value = -1;
  const char* first = name.data() + at + label.size();
  const auto [end, error] = std::from_chars(first, name.data() + name.size(), value);
  return error == std::errc() && value >= 0 ? std::optional(value) : std::nullopt;
}

bool is_flat(const TorchDistTensor& tensor) { return tensor.name.find("optimizer.distributed.dp_group_idx_") != std::string::npos; }

}  // namespace

bool FlatState::present(const TorchDistReader& reader) { return std::any_of(reader.tensors().begin(), reader.tensors().end(), is_flat); }

FlatState::FlatState(const TorchDistReader& reader, const RuleTable& table) : reader_(reader) {
  const std::string what = reader.directory().string();
  const Optimizers found = optimizers();
  std::vector<const Rule*> order;
  for (const Rule& rule : table.rules) order.push_back(&rule);
  std::stable_sort(order.begin(), order.end(), [&](const Rule* a, const Rule* b) { return registration_order(*b, what) < registration_order(*a, what); });
  require(found.size() <= 2 && found.begin()->second.size() == 1,
          "{}: flat optimizer state (dp_reshardable) of {} optimizers, the first over {} model-parallel ranks; this version reads that of one tensor- and "
          "pipeline-parallel rank. Megatron writes state any layout reads with --dist-ckpt-optim-fully-reshardable",
          what, found.size(), found.begin()->second.size());
  const bool chained = found.size() == 2;
  std::vector<const Rule*> dense, experts;
  for (const Rule* rule : order) (chained && rule->expert >= 0 ? experts : dense).push_back(rule);
  lay_out(found.begin()->second.begin()->second, dense);
  if (!chained) return;
  const std::map<int64_t, Buckets>& ranks = std::next(found.begin())->second;
  int64_t rank = 0;
  for (const auto& [number, buckets] : ranks) {
    require(number == rank, "{}: the optimizer state of expert-parallel rank {} is missing", what, rank);
    std::vector<const Rule*> own;
    for (const Rule* rule : experts)
      if (rule->expert * std::ssize(ranks) / rule->expert_count == rank) own.push_back(rule);
    lay_out(buckets, own);
    ++rank;
  }
}

FlatState::Optimizers FlatState::optimizers() const {
  Optimizers out;
  for (const TorchDistTensor& tensor : reader_.tensors()) {
    if (!is_flat(tensor)) continue;
    const auto optimizer = number_after(tensor.name, "chained_"), rank = number_after(tensor.name, ".dp_group_idx_");
    const auto buffer = number_after(tensor.name, ".gbuf_idx_"), bucket = number_after(tensor.name, ".bucket_idx_");
    require(rank && buffer && bucket && tensor.shape.size() == 1 && tensor.dtype == DType::f32, "{}: '{}': a flat fp32 bucket was expected",
            reader_.directory(), tensor.name);
    require(*buffer == 0, "{}: '{}': optimizer state of parameters of two types, which this version does not read", reader_.directory(), tensor.name);
    out[optimizer.value_or(0)][*rank].emplace(*bucket, tensor.name.substr(0, tensor.name.rfind('.') + 1));
  }
  return out;
}

void FlatState::lay_out(const Buckets& buckets, const std::vector<const Rule*>& order) {
  const auto size = [&](const std::string& key) { return reader_.at(key + "param").shape[0]; };
  const std::string what = reader_.directory().string();
  int64_t expected = 0;
  for (const auto& [number, key] : buckets) {
    require(number == expected, "{}: bucket {} of the optimizer state is missing", what, expected);
    ++expected;
  }
  auto bucket = buckets.begin();
  int64_t end = 0;
  for (const Rule* rule : order) {
    const int64_t elements = elements_of(*rule);
    int64_t begin = (end + kAlignment - 1) / kAlignment * kAlignment;
    if (bucket != buckets.end() && end > 0 && end == size(bucket->second)) {
      ++bucket;
      begin = 0;
    }
    require(bucket != buckets.end() && begin + elements <= size(bucket->second),
            "{}: the parameters of this model do not fill the buckets of its optimizer state: {} has no place", what, rule->name());
    places_[rule->name()] = {bucket->second, begin, elements};
    end = begin + elements;
  }
  require(bucket != buckets.end() && std::next(bucket) == buckets.end() && end == size(bucket->second),
          "{}: the parameters of this model do not fill the buckets of its optimizer state", what);
}

std::vector<FlatState::Piece> FlatState::pieces(std::string_view kind, const Rule& rule) const {
  const auto found = places_.find(rule.name());
  require(found != places_.end(), "{}: no optimizer state for {}", reader_.directory(), rule.name());
  const Place& place = found->second;
  const TorchDistTensor& tensor = reader_.at(place.bucket + std::string(kind));
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
