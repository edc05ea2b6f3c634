// HF folders of one and many files; incomplete and ambiguous ones.
#include "format/hf_index.h"

#include "format_testing.h"

namespace ponte {
namespace {

void put_file(const fs::path& file, const std::vector<TensorSpec>& specs) {
  const SafetensorsPlan plan = plan_safetensors(specs);
  std::string content = plan.header;
  content.resize(plan.file_bytes, '\2');
  write_file_atomically(file, content);
}

TensorSpec spec(std::string name) { return {std::move(name), DType::bf16, {2, 3}}; }

void put_index(const fs::path& folder, std::string_view map) { write_file_atomically(folder / kSafetensorsIndex, format("{{\"weight_map\": {}}}", map)); }

TEST(HfCheckpoint, OneFileShardsAndFilesWithoutIndex) {
  TemporaryFolder one, shards, loose;
  put_file(one / "model.safetensors", {spec("b"), spec("a")});
  put_file(one / "other.safetensors", {spec("c")});  // not part of the model
  put_file(shards / "x.safetensors", {spec("a")});
  put_file(shards / "y.safetensors", {spec("b")});
  put_index(shards.path(), R"({"a": "x.safetensors", "b": "y.safetensors"})");
  put_file(loose / "x.safetensors", {spec("a")});
  put_file(loose / "y.safetensors", {spec("b")});
  put_file(loose / "adapter_model.safetensors", {spec("a")});
  for (const auto* folder : {&one, &shards, &loose}) {
    const HfCheckpoint checkpoint(folder->path());
    ASSERT_EQ(checkpoint.tensors().size(), 2u);
    EXPECT_EQ(checkpoint.tensors()[0].name, "a");
    EXPECT_EQ(checkpoint.total_bytes(), 24u);
    const HfTensor& b = checkpoint.at("b");
    EXPECT_EQ(b.bytes.size(), 12u);
    EXPECT_EQ(checkpoint.file(b.file).mapping().bytes().data() + b.offset, b.bytes.data());
  }
}

TEST(HfCheckpoint, RefusesIncompleteAndAmbiguousFolders) {
  struct Case {
    const char* name;
    std::vector<TensorSpec> x, y;
    const char* index;
    const char* error;
  };
  const std::string long_name = R"({"a": ")" + std::string(300, 'x') + R"("})";
  const std::vector<Case> cases{
      {"missing shard", {spec("a")}, {}, R"({"a": "x.safetensors", "b": "z.safetensors"})", "shard z.safetensors of the index is missing"},
      {"ghost key", {spec("a")}, {}, R"({"a": "x.safetensors", "b": "x.safetensors"})", "lists tensor 'b' in x.safetensors, which lacks it"},
      {"unlisted tensor", {spec("a"), spec("b")}, {}, R"({"a": "x.safetensors"})", "'b', which model.safetensors.index.json lacks"},
      {"wrong shard", {spec("a")}, {spec("b")}, R"({"a": "y.safetensors", "b": "y.safetensors"})", "lists tensor 'a' in y.safetensors, which lacks it"},
      {"swapped", {spec("a")}, {spec("b")}, R"({"a": "y.safetensors", "b": "x.safetensors"})", "the index says"},
      {"twice", {spec("a")}, {spec("a")}, nullptr, "lies in both x.safetensors and y.safetensors"},
      {"traversal", {spec("a")}, {}, R"({"a": "../x.safetensors"})", "wanted a plain file name"},
      {"absolute", {spec("a")}, {}, R"({"a": "/etc/passwd"})", "wanted a plain file name"},
      {"hidden", {spec("a")}, {}, R"({"a": ".."})", "wanted a plain file name"},
      {"long name", {spec("a")}, {}, long_name.c_str(), "wanted a plain file name"},
      {"not a name", {spec("a")}, {}, R"({"a": 1})", "not a file name"},
      {"duplicate key", {spec("a")}, {}, R"({"a": "x.safetensors", "a": "x.safetensors"})", "twice"},
      {"empty map", {spec("a")}, {}, "{}", "weight_map is empty"},
      {"no map", {spec("a")}, {}, "3", "no 'weight_map' object"},
      {"bad JSON", {spec("a")}, {}, "{", "not a JSON object"},
      {"nothing", {}, {}, nullptr, "no *.safetensors file"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    TemporaryFolder folder;
    if (!c.x.empty()) put_file(folder / "x.safetensors", c.x);
    if (!c.y.empty()) put_file(folder / "y.safetensors", c.y);
    if (c.index) put_index(folder.path(), c.index);
    expect_error(c.error, [&] { HfCheckpoint checkpoint(folder.path()); });
  }
  expect_error("no such folder", [] { HfCheckpoint checkpoint("/nowhere"); });
}

TEST(HfShards, CutInOrderBySize) {
  std::vector<TensorSpec> specs;
  for (const char* name : {"a", "b", "c", "d", "e"}) specs.push_back(spec(name));
  specs[2].shape = {100};  // larger than a shard may be: alone
  const HfShardPlan plan = plan_hf_shards(specs, 24);
  ASSERT_EQ(plan.shards.size(), 3u);
  EXPECT_EQ(plan.shards[0].tensors, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(plan.shards[1].tensors, (std::vector<size_t>{2}));
  EXPECT_EQ(plan.shards[2].tensors, (std::vector<size_t>{3, 4}));
  EXPECT_EQ(plan.shards[1].file, "model-00002-of-00003.safetensors");
  EXPECT_EQ(plan.total_bytes, 248u);
  EXPECT_EQ(plan_hf_shards(specs, 248).shards.size(), 1u);
  EXPECT_EQ(plan_hf_shards(specs, 248).shards[0].file, "model.safetensors");
  EXPECT_TRUE(plan_hf_shards(specs, 248).index_json.empty());
}

TEST(Sizes, InWordsAndBytes) {
  EXPECT_EQ(parse_size("5GB"), 5'000'000'000u);
  EXPECT_EQ(parse_size("1.5gb"), 1'500'000'000u);
  EXPECT_EQ(parse_size("2GiB"), 2u << 30);
  EXPECT_EQ(parse_size("300MB"), 300'000'000u);
  EXPECT_EQ(parse_size("123"), 123u);
  for (const char* bad : {"", "GB", "5 apples", "-1GB", "0", "1e30GB", "nan", "inf"}) expect_error("wanted a number", [&] { parse_size(bad); });
}

}  // namespace
}  // namespace ponte
