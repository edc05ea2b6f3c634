// Flat optimizer state of several ranks, written here as Megatron's ranks lay it out (parameters of a chunk of layers, last first, each at a multiple of
// 64), read back element by element; and what is damaged or laid out otherwise.
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "../format/format_testing.h"
#include "convert/segment_source.h"
#include "families/registry.h"

namespace ponte {
namespace {

constexpr const char* kKinds[] = {"param", "exp_avg", "exp_avg_sq"};
constexpr const char* kLayer[] = {"self_attention.linear_proj.weight", "self_attention.linear_qkv.layer_norm_weight", "self_attention.linear_qkv.weight",
                                  "self_attention.q_layernorm.weight", "self_attention.k_layernorm.weight"};
constexpr const char* kDense[] = {"mlp.linear_fc1.layer_norm_weight", "mlp.linear_fc1.weight", "mlp.linear_fc2.weight"};

ModelConfig tiny(int64_t layers, int64_t experts) {
  ModelConfig c;
  const Family& family = family_of(experts ? "Qwen3MoeForCausalLM" : "Qwen3ForCausalLM");
  c.hf_architecture = family.architecture;
  c.model_type = family.model_type;
  c.num_layers = layers;
  c.hidden_size = 6;
  c.num_attention_heads = 4;
  c.num_query_groups = 4;
  c.kv_channels = 4;
  c.ffn_hidden_size = 8;
  c.vocab_size = 11;
  c.qk_layernorm = true;
  c.add_qkv_bias = false;
  c.gated_linear_unit = true;
  c.share_embeddings_and_output_weights = false;
  c.params_dtype = DType::f32;
  c.num_moe_experts = experts;
  c.moe_ffn_hidden_size = experts ? 4 : 0;
  c.moe_router_enable_expert_bias = experts > 0;  // in no bucket: no optimizer moves it
  return c;
}

// A row of the table: how ranks divide, and the layers of each chunk, chunk after chunk (stage by stage in turn).
struct Division {
  int64_t tensor, pipeline, expert, expert_tensor;
  std::vector<int64_t> layers;
  int64_t experts = 0, bucket = 0;  // of the model; elements after which a bucket is closed (0: never)
  FlatOrder order = {};
  bool two_types = false;           // norms are bf16, all else fp32
  int64_t dense_layers = 0;         // the first ones, which have no experts
};

class Writer {
 public:
  explicit Writer(const Division& division) : division_(division) {
    for (int64_t n : division.layers) layers_ += n;
    config = tiny(layers_, division.experts);
    for (int64_t layer = 0; division.dense_layers > 0 && layer < layers_; ++layer) config.moe_layer_freq.push_back(layer >= division.dense_layers);
    table = rule_table(config);
    lay_out();
  }

  bool half(const Rule& rule) const { return division_.two_types && rule.leaf.find("norm") != std::string::npos; }

  // Numbers that fp32 holds exactly, another for each element of each kind; of main parameters that are rounded to bf16, few enough for that.
  float value(size_t rule, int64_t element, size_t kind) const {
    if (half(table.rules[rule]) && kind == 0) return static_cast<float>((static_cast<int64_t>(rule) * 17 + element) % 251);
    return static_cast<float>((static_cast<int64_t>(rule) * 700 + element) * 4 + static_cast<int64_t>(kind));
  }

  void write(const fs::path& directory, int64_t cut) const {
    struct Item {
      size_t chunk;
      std::string bytes;
    };
    TorchDistWriter writer(directory);
    std::vector<Item> items;
    const Dialect dialect = dialect_of(table);
    for (size_t r = 0; r < table.rules.size(); ++r) {
      int64_t first = 0;
      for (size_t s = 0; s < table.rules[r].segments.size(); ++s) {
        const Shape& shape = table.rules[r].segments[s].shape;
        const StoredSegment stored = stored_segment(table.rules[r], s, dialect);
        const bool vocabulary = table.rules[r].segments[s].padded;
        Shape offsets = stored.prefix, sizes(stored.prefix.size(), 1), whole = stored.shape;
        offsets.resize(whole.size(), 0);
        offsets[stored.prefix.size()] = stored.row;
        sizes.insert(sizes.end(), shape.begin(), shape.end());
        if (vocabulary) sizes[0] = whole[0] = (shape[0] + division_.tensor - 1) / division_.tensor * division_.tensor;
        std::string bytes;
        const int64_t count = dense_window(Shape(sizes.size(), 0), sizes).elements(), own = dense_window(Shape(shape.size(), 0), shape).elements();
        const bool bf16 = half(table.rules[r]);
        for (int64_t i = 0; i < count; ++i) {
          const float stored_value = i < own ? value(r, first + i, 0) : -1.0f;
          bytes += bf16 ? raw(bf16_from_f32(stored_value)) : raw(stored_value);
        }
        first += own;
        items.push_back({writer.add_chunk({stored.key, bf16 ? DType::bf16 : DType::f32, whole}, offsets, sizes), bytes});
      }
    }
    for (const auto& [key, elements] : flat) {
      const TensorSpec spec{key, dtype, {std::ssize(elements)}};
      for (int64_t begin = 0; begin < std::ssize(elements); begin += cut) {  // as data-parallel ranks cut it: anywhere
        std::string bytes;
        const int64_t end = std::min(begin + cut, std::ssize(elements));
        for (int64_t i = begin; i < end; ++i) bytes += dtype == DType::f32 ? raw(elements[i]) : raw(static_cast<uint16_t>(0));
        items.push_back({writer.add_chunk(spec, {begin}, {end - begin}), bytes});
      }
    }
    for (const std::string& rank : ranks_) writer.add_object(rank + ".optimizer/shard_0_1", Value::dict_of({}));
    writer.begin();
    for (const Item& item : items) writer.write(item.chunk, 0, bytes_of(item.bytes));
    writer.finish();
  }

  ModelConfig config;
  RuleTable table;
  std::map<std::string, std::vector<float>> flat;  // every flat tensor, to be damaged
  DType dtype = DType::f32;

 private:
  using Names = std::vector<std::string>;
  Names chunk(int64_t begin, int64_t end, bool first, bool last) const {
    Names out;
    if (first) out.push_back("embedding.word_embeddings.weight");
    for (int64_t layer = begin; layer < end; ++layer) {
      const auto add = [&](std::string leaf) { out.push_back(format("decoder.layers.{}.{}", layer, leaf)); };
      if (division_.order.separate_norms) add(kLayer[1]);
      for (const char* leaf : kLayer)
        if (!division_.order.separate_norms || leaf != kLayer[1]) add(leaf);
      const bool sparse = division_.experts > 0 && layer >= division_.dense_layers;
      if (!sparse)
        for (const char* leaf : kDense) add(leaf);
      if (sparse) {
        add("pre_mlp_layernorm.weight");
        add("mlp.router.weight");
        for (int64_t e = 0; e < division_.experts; ++e) {
          add(format("mlp.experts.linear_fc1.weight{}", e));
          if (division_.order.single_experts) add(format("mlp.experts.linear_fc2.weight{}", e));
        }
        for (int64_t e = 0; e < division_.experts && !division_.order.single_experts; ++e) add(format("mlp.experts.linear_fc2.weight{}", e));
      }
    }
    if (last) out.insert(out.end(), {"decoder.final_layernorm.weight", "output_layer.weight"});
    return out;
  }

  // The buffers of one chunk of one rank, from number `next` on.
  void add_buffers(const std::string& prefix, int64_t& next, const Names& names, const TensorParallel& rank) {
    ranks_.insert(prefix);
    Names full, rounded;
    for (const std::string& name : names) (half(table.find(name)) ? rounded : full).push_back(name);
    const bool rounded_first = !names.empty() && half(table.find(names[0]));
    if (rounded_first && !rounded.empty()) add_buffer(format("{}.gbuf_idx_{}.dtype_(torch.bfloat16,", prefix, next++), rounded, rank);
    if (!full.empty()) add_buffer(format("{}.gbuf_idx_{}.dtype_(torch.float32,", prefix, next++), full, rank);
    if (!rounded_first && !rounded.empty()) add_buffer(format("{}.gbuf_idx_{}.dtype_(torch.bfloat16,", prefix, next++), rounded, rank);
  }

  void add_buffer(const std::string& prefix, const Names& names, const TensorParallel& rank) {
    int64_t bucket = 0;
    std::vector<std::vector<float>> kinds(3);
    const auto close = [&] {
      for (size_t k = 0; k < 3; ++k) flat[format("{} torch.float32).bucket_idx_{}.{}", prefix, bucket, kKinds[k])] = kinds[k];
      kinds.assign(3, {});
      ++bucket;
    };
    for (size_t n = names.size(); n-- > 0;) {
      const Rule& rule = table.find(names[n]);
      const auto number = static_cast<size_t>(&rule - table.rules.data());
      const Slice slice = slice_of(rule, rank);
      std::vector<std::vector<float>> local(3, std::vector<float>(static_cast<size_t>(dense_window(Shape(slice.shape.size(), 0), slice.shape).elements()), -1));
      int64_t start = 0;
      for (size_t s = 0; s < rule.segments.size(); ++s) {
        const Window whole = dense_window(Shape(rule.segments[s].shape.size(), 0), rule.segments[s].shape, start);
        start += whole.elements();
        for (const Window& window : slice_windows(rule, slice, s)) {
          std::vector<Copy> copies;
          if (window.elements() > 0) append_copies(whole, window, 0, copies);
          for (const Copy& copy : copies)
            for (int64_t i = 0; i < copy.elements(); ++i) {
              int64_t from = copy.from, to = copy.to, left = i;
              for (size_t a = copy.axes.size(); a-- > 0; left /= copy.axes[a].extent) {
                from += left % copy.axes[a].extent * copy.axes[a].from;
                to += left % copy.axes[a].extent * copy.axes[a].to;
              }
              for (size_t k = 0; k < 3; ++k) local[k][static_cast<size_t>(to)] = value(number, from, k);
            }
        }
      }
      for (size_t k = 0; k < 3; ++k) {
        kinds[k].resize((kinds[k].size() + 63) / 64 * 64, -1);
        kinds[k].insert(kinds[k].end(), local[k].begin(), local[k].end());
      }
      if (n > 0 && division_.bucket > 0 && std::ssize(kinds[0]) >= division_.bucket) close();
    }
    close();
  }

  void lay_out() {
    const bool chained = division_.expert > 1;
    int64_t layer = 0;
    std::map<int64_t, int64_t> dense_buffers, expert_buffers;  // so far, by rank
    for (size_t c = 0; c < division_.layers.size(); ++c) {
      const int64_t stage = static_cast<int64_t>(c) % division_.pipeline;
      Names dense = chunk(layer, layer + division_.layers[c], c == 0, c + 1 == division_.layers.size()), experts;
      if (chained) {
        for (const std::string& name : dense)
          if (name.find("experts") != std::string::npos) experts.push_back(name);
        std::erase_if(dense, [](const std::string& name) { return name.find("experts") != std::string::npos; });
      }
      const std::string start = chained ? "chained_0.optimizer" : "optimizer";
      for (int64_t t = 0; t < division_.tensor; ++t) {
        const int64_t rank = stage * division_.tensor + t;
        add_buffers(format("{}.distributed.dp_group_idx_{}", start, rank), dense_buffers[rank], dense, {t, division_.tensor});
      }
      for (int64_t e = 0; chained && e < division_.expert; ++e) {
        Names own = experts;
        const int64_t each = division_.experts / division_.expert;
        std::erase_if(own, [&](const std::string& name) { return table.find(name).expert / each != e; });
        for (int64_t t = 0; t < division_.expert_tensor; ++t) {
          const int64_t rank = (stage * division_.expert + e) * division_.expert_tensor + t;
          add_buffers(format("chained_1.optimizer.distributed.dp_group_idx_{}", rank), expert_buffers[rank], own, {t, division_.expert_tensor});
        }
      }
      layer += division_.layers[c];
    }
  }

  Division division_;
  int64_t layers_ = 0;
  std::set<std::string> ranks_;  // each has its settings, whether it has parameters or not
};

void expect_every_value(const Writer& made, const NativeSource& source) {
  for (size_t r = 0; r < made.table.rules.size(); ++r) {
    const Rule& rule = made.table.rules[r];
    if (!rule.is_optimized()) continue;
    const Slice whole = slice_of(rule, {});
    const int64_t count = dense_window(Shape(whole.shape.size(), 0), whole.shape).elements();
    for (size_t k = 0; k < 3; ++k) {
      std::vector<float> got(static_cast<size_t>(count));
      source.read_state(format("optimizer.state.{}.", kKinds[k]), rule, whole, std::as_writable_bytes(std::span(got)), DType::f32);
      for (int64_t i = 0; i < count; ++i) ASSERT_EQ(got[static_cast<size_t>(i)], made.value(r, i, k)) << rule.name() << " " << kKinds[k] << " " << i;
    }
  }
}

TEST(FlatState, EveryValueUnderEveryDivision) {
  const Division table[] = {
      {1, 1, 1, 1, {2}},
      {2, 1, 1, 2, {2}},
      {4, 1, 1, 4, {1}},
      {1, 2, 1, 1, {1, 2}},                    // uneven stages
      {2, 2, 1, 2, {2, 1}},
      {1, 2, 1, 1, {1, 1, 2, 1}},              // two chunks to a stage
      {2, 3, 1, 2, {0, 2, 0}},                 // stages of an embedding, and of a loss, alone
      {1, 1, 1, 1, {2}, 4},                    // experts among the dense parameters
      {2, 1, 1, 2, {2}, 4},
      {1, 1, 2, 1, {2}, 4},                    // over ranks: an optimizer of their own
      {2, 1, 2, 2, {2}, 4},
      {2, 1, 2, 1, {2}, 4},
      {4, 1, 2, 2, {1}, 4},
      {2, 2, 2, 1, {1, 1, 1, 1}, 4},
      {2, 2, 4, 1, {1, 2}, 4},
      {2, 2, 1, 2, {2, 1}, 0, 200},            // several buckets
      {2, 2, 2, 1, {1, 1, 1, 1}, 4, 100},
      {2, 2, 1, 2, {2, 1}, 0, 0, {.separate_norms = true}},
      {1, 1, 2, 1, {2}, 4, 0, {.single_experts = true}},
      {2, 2, 2, 1, {1, 1, 1, 1}, 4, 100, {.separate_norms = true, .single_experts = true}},
      {2, 2, 1, 2, {1, 1, 1, 0}, 0, 0, {}, true},  // a buffer of each type; the last chunk begins with the other one
      {2, 2, 2, 1, {1, 1}, 4, 0, {}, true},
      {1, 3, 2, 1, {1, 1, 1}, 4, 0, {}, false, 1},  // a stage without experts
      {2, 3, 2, 2, {1, 1, 0}, 4, 0, {}, false, 1},
  };
  for (const Division& division : table)
    for (int64_t cut : {37, 5000}) {
      SCOPED_TRACE(format("row {}, cut {}", &division - table, cut));
      TemporaryFolder folder;
      Writer made(division);
      made.write(folder.path(), cut);
      expect_every_value(made, NativeSource(folder.path(), &made.config));
    }
}

TEST(FlatState, RanksHoldEqualPartsWhateverTheHeads) {
  ModelConfig config = tiny(1, 0);
  config.num_query_groups = 2;  // on four ranks each holds half of a group's rows
  const RuleTable table = rule_table(config);
  const FlatModel model{table, [](const Rule&) { return DType::f32; }, [](const Rule&) { return int64_t{12}; }};
  const Rule &fused = table.find("decoder.layers.0.self_attention.linear_qkv.weight"), &vocabulary = table.find("output_layer.weight");
  const Slice quarter = *flat_slice(model, fused, 1, 4), last = *flat_slice(model, vocabulary, 1, 2);
  EXPECT_EQ(quarter.shape, (Shape{8, 6}));
  EXPECT_EQ(quarter.segments[0].intervals[0].begin, 8);
  EXPECT_EQ(last.shape, (Shape{6, 6}));
  EXPECT_EQ(last.segments[0].intervals[0].end, 11);
  EXPECT_EQ(last.segments[0].padding, 1);
  EXPECT_FALSE(flat_slice(model, fused, 0, 3));
}

TEST(FlatState, WhatIsDamagedIsRefused) {
  using Flat = std::map<std::string, std::vector<float>>;
  const std::string rank = "optimizer.distributed.dp_group_idx_", buffer = ".gbuf_idx_0.dtype_(torch.float32, torch.float32).bucket_idx_";
  const auto drop = [](Flat& flat, const std::string& part) {
    std::erase_if(flat, [&](const auto& one) { return one.first.find(part) != std::string::npos; });
  };
  const auto rename = [](Flat& flat, const std::string& from, const std::string& to) {
    Flat out;
    for (auto& [key, elements] : flat) {
      const size_t at = key.find(from);
      out[at == std::string::npos ? key : key.substr(0, at) + to + key.substr(at + from.size())] = elements;
    }
    flat = std::move(out);
  };
  const auto resize = [](Flat& flat, const std::string& bucket, int64_t more) {  // makes it where there is none
    for (const char* kind : kKinds) flat[bucket + kind].resize(flat[bucket + kind].size() + static_cast<size_t>(more));
  };
  struct Case {
    const char* what;
    std::function<void(Flat&)> damage;
    const char* message;
  };
  const Case table[] = {
      {"a rank missing", [&](Flat& f) { drop(f, rank + "1."); }, "model-parallel rank 1 of the flat optimizer state is missing"},
      {"the last rank missing", [&](Flat& f) { drop(f, rank + "3."); }, "model-parallel rank 3 of the flat optimizer state is missing"},
      {"ranks of a stage missing", [&](Flat& f) { drop(f, rank + "2."), drop(f, rank + "3."); },
       "model-parallel rank 2 of the flat optimizer state is missing"},
      {"a moment missing", [&](Flat& f) { f.erase(rank + "2" + buffer + "0.exp_avg"); }, "bucket_idx_0.exp_avg' is missing"},
      {"a moment short", [&](Flat& f) { f[rank + "2" + buffer + "0.exp_avg_sq"].pop_back(); }, "exp_avg_sq' is torch.float32 of shape"},
      {"a bucket short", [&](Flat& f) { resize(f, rank + "0" + buffer + "0.", -1); }, "no number of layers from 0 on fills the buckets of"},
      {"a bucket long", [&](Flat& f) { resize(f, rank + "3" + buffer + "0.", 5000); }, "fills the buckets of pipeline stage"},
      {"the first bucket missing", [&](Flat& f) { rename(f, "0" + buffer + "0", "0" + buffer + "1"); }, "bucket 0 of the flat optimizer state is missing"},
      {"a buffer more", [&](Flat& f) { resize(f, rank + "3.gbuf_idx_1.dtype_(torch.float32, torch.float32).bucket_idx_0.", 3); },
       "rank 3 has more buckets than the model fills"},
      {"ranks exchanged",
       [&](Flat& f) { rename(f, "_idx_0.gbuf", "_idx_9.gbuf"), rename(f, "_idx_1.gbuf", "_idx_0.gbuf"), rename(f, "_idx_9.gbuf", "_idx_1.gbuf"); },
       "does not round to its weight"},
      {"parameters exchanged",
       [&](Flat& f) {
         std::vector<float>& main = f[rank + "0" + buffer + "0.param"];
         std::rotate(main.begin(), main.begin() + 64, main.end());
       },
       "does not round to its weight"},
      {"one byte a parameter", [&](Flat& f) { rename(f, "(torch.float32,", "(torch.uint8,"); }, "of torch.uint8, which this version does not read"},
      {"another type", [&](Flat& f) { rename(f, "(torch.float32,", "(torch.bfloat16,"); }, "do not fill the flat buckets"},
      {"three optimizers", [&](Flat& f) { resize(f, "chained_1." + rank + "0" + buffer + "0.", 3), resize(f, "chained_2." + rank + "0" + buffer + "0.", 3); },
       "3 optimizers in a chain"},
      {"two optimizers in one", [&](Flat& f) { resize(f, "chained_0." + rank + "0" + buffer + "0.", 3); }, "are one bucket"},
      {"no type in the key", [&](Flat& f) { rename(f, ".dtype_(", ".type_("); }, "a flat fp32 bucket was expected"},
  };
  for (const Case& row : table) {
    SCOPED_TRACE(row.what);
    TemporaryFolder folder;
    Writer made({2, 2, 1, 2, {1, 2}});
    row.damage(made.flat);
    made.write(folder.path(), 100);
    const NativeSource source(folder.path(), &made.config);
    expect_error(row.message, [&] { StateSource(source, "exp_avg"); });
  }
}

TEST(FlatState, MomentsOfOtherTypesAreRefused) {
  TemporaryFolder folder;
  Writer made({2, 1, 1, 2, {1}});
  made.dtype = DType::bf16;
  made.write(folder.path(), 100);
  const NativeSource source(folder.path(), &made.config);
  expect_error("is torch.bfloat16 of shape", [&] { StateSource(source, "param"); });
}

}  // namespace
}  // namespace ponte
