// Weight sources and sinks on genuine checkpoints: what a rank reads is the same from every format and sharding, and what it writes is read back.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "base/errors.h"
#include "base/file.h"
#include "convert/convert.h"
#include "convert/segment_source.h"
#include "convert/weight_sink.h"
#include "families/registry.h"

namespace ponte {
namespace {

const fs::path kGolden = PONTE_GOLDEN_DIR;

struct Scratch {
  fs::path path = fs::temp_directory_path() / format("ponte-weights-{}", static_cast<int64_t>(::getpid()));
  Scratch() { fs::create_directories(path); }
  ~Scratch() { fs::remove_all(path); }
};

using Bytes = std::vector<std::byte>;

Bytes read_slice(const WeightSource& source, const Rule& rule, const TensorParallel& tp, DType dtype) {
  const Slice slice = slice_of(rule, tp);
  int64_t elements = 1;
  for (int64_t extent : slice.shape) elements *= extent;
  Bytes out(static_cast<size_t>(elements * dtype_bytes(dtype)), std::byte{0xAB});
  source.read(rule, slice, out, dtype);
  return out;
}

TEST(WeightSource, SlicesAreTheSameFromBothSides) {
  for (const char* name : {"qwen2", "qwen3_tp2pp2", "qwen3_v515", "mcore016/qwen3"}) {
    const auto hf = WeightSource::open(kGolden / name / "hf"), native = WeightSource::open(kGolden / name / "mcore");
    ASSERT_EQ(hf->rules().rules.size(), native->rules().rules.size());
    for (int64_t size : {1, 2, 4})
      for (int64_t rank = 0; rank < size; ++rank)
        for (const Rule& rule : hf->rules().rules)
          for (DType dtype : {DType::bf16, DType::f32})
            ASSERT_EQ(read_slice(*hf, rule, {rank, size}, dtype), read_slice(*native, rule, {rank, size}, dtype))
                << name << " " << rule.name() << " rank " << rank << " of " << size;
  }
}

TEST(WeightSource, PaddingRowsAreZero) {
  const auto source = WeightSource::open(kGolden / "qwen3_v515/hf");
  const Rule& rule = source->rules().find("output_layer.weight");
  const Slice slice = slice_of(rule, {3, 4});  // rows 387 to 515 of 515, and one of padding
  ASSERT_EQ(slice.segments[0].padding, 1);
  const Bytes got = read_slice(*source, rule, {3, 4}, DType::bf16);
  const Bytes tail(got.end() - 64 * 2, got.end());
  EXPECT_EQ(tail, Bytes(64 * 2, std::byte{0}));
}

TEST(WeightSource, WrongBuffersAndPathsAreErrors) {
  const auto source = WeightSource::open(kGolden / "qwen3/hf");
  const Rule& rule = source->rules().rules[0];
  Bytes small(10);
  EXPECT_THROW(source->read(rule, slice_of(rule, {}), small, DType::bf16), UserError);
  EXPECT_THROW(WeightSource::open(kGolden / "nothing"), UserError);
  EXPECT_THROW(WeightSource::open(kGolden), UserError);
  ModelConfig other = source->config();
  other.num_layers = 1;
  EXPECT_THROW(WeightSource::open(kGolden / "qwen3/mcore", other), UserError);
  EXPECT_THROW(source->read_state("optimizer.state.exp_avg.", rule, slice_of(rule, {}), small, DType::f32), UserError);
}

TEST(WeightSource, ModelShapedState) {
  const auto source = WeightSource::open(kGolden / "trained/qwen3_opt_fully_reshardable/mcore");
  const NativeSource& native = dynamic_cast<const NativeSource&>(*source);
  for (const Rule& rule : source->rules().rules) {
    ASSERT_TRUE(source->has_state("optimizer.state.exp_avg.", rule)) << rule.name();
    EXPECT_FALSE(source->has_state("optimizer.state.momentum.", rule));
    const Slice slice = slice_of(rule, {});
    int64_t elements = 1;
    for (int64_t extent : slice.shape) elements *= extent;
    Bytes main(static_cast<size_t>(elements * 4)), weight(static_cast<size_t>(elements * 2)), cast(weight.size());
    source->read_state("optimizer.state.param.", rule, slice, main, DType::f32);
    source->read(rule, slice, weight, DType::bf16);
    run_copy({0, 0, 0, {{elements, 1, 1}}}, {"main", DType::f32, main}, cast.data(), DType::bf16);
    EXPECT_EQ(cast, weight) << rule.name() << ": bf16 weights are the fp32 main parameters, rounded";
  }
  EXPECT_EQ(native.dialect().layer_keys, LayerKeys::stacked);
}

// Live shards of one rank through both writers and back.
TEST(WeightSink, RoundTrip) {
  Scratch scratch;
  for (const char* name : {"qwen2", "qwen3_untied"}) {
    const auto source = WeightSource::open(kGolden / name / "hf");
    const RuleTable& table = source->rules();
    std::vector<Bytes> values;
    for (const Rule& rule : table.rules) values.push_back(read_slice(*source, rule, {}, DType::bf16));
    std::vector<LiveShard> weights, all;
    for (size_t r = 0; r < table.rules.size(); ++r)
      weights.push_back({"", &table.rules[r], slice_of(table.rules[r], {}), DType::bf16, [&values, r] { return std::span<const std::byte>(values[r]); }});
    all = weights;
    for (LiveShard& shard : weights) {
      all.push_back(shard);
      all.back().prefix = "optimizer.state.exp_avg.";
    }
    const fs::path native = scratch.path / name / "iter_0000007", hf = scratch.path / name / "hf";
    fs::create_directories(native);
    fs::create_directories(hf);
    save_torch_dist(native, source->config(), table, all, {});
    const auto back = WeightSource::open(native, source->config());
    for (size_t r = 0; r < table.rules.size(); ++r) {
      EXPECT_EQ(read_slice(*back, table.rules[r], {}, DType::bf16), values[r]) << table.rules[r].name();
      Bytes state(values[r].size());
      back->read_state("optimizer.state.exp_avg.", table.rules[r], slice_of(table.rules[r], {}), state, DType::bf16);
      EXPECT_EQ(state, values[r]) << table.rules[r].name();
    }
    save_hf(hf, source->config(), table, weights, 5'000'000);
    const HfCheckpoint written(hf), original(kGolden / name / "hf");
    ASSERT_EQ(written.tensors().size(), original.tensors().size());
    for (const HfTensor& tensor : original.tensors()) {
      const HfTensor& ours = written.at(tensor.name);
      EXPECT_EQ(ours.shape, tensor.shape);
      EXPECT_TRUE(std::ranges::equal(ours.bytes, tensor.bytes)) << tensor.name;
    }
    EXPECT_EQ(read_file(hf / "config.json"), read_file(kGolden / name / "hf/config.json"));
  }
}

TEST(WeightSink, WrongBytesAreErrors) {
  Scratch scratch;
  const auto source = WeightSource::open(kGolden / "qwen3/hf");
  const Rule& rule = source->rules().rules[0];
  const Bytes few(6);
  const std::vector<LiveShard> shards = {{"", &rule, slice_of(rule, {}), DType::bf16, [&] { return std::span<const std::byte>(few); }}};
  EXPECT_THROW(save_torch_dist(scratch.path, source->config(), source->rules(), shards, {}), UserError);
}

// Any tensor-parallel sharding on disk reads as the whole: what ranks of a larger group would store, chunk by chunk.
TEST(WeightSource, MegatronFsdp) {
  const auto hf = WeightSource::open(kGolden / "qwen3_fsdp/hf"), native = WeightSource::open(kGolden / "qwen3_fsdp/fsdp");
  for (const Rule& rule : hf->rules().rules) EXPECT_EQ(read_slice(*hf, rule, {1, 2}, DType::f32), read_slice(*native, rule, {1, 2}, DType::f32)) << rule.name();
}

}  // namespace
}  // namespace ponte
