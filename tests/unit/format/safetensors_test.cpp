// Strictness first: a table of files that look almost right, each with the words its error must contain.
#include "format/safetensors.h"

#include "format_testing.h"

namespace ponte {
namespace {

std::string file_of(std::string header, size_t data_bytes) { return raw<uint64_t>(header.size()) + header + std::string(data_bytes, '\1'); }

struct Bad {
  const char* name;
  std::string file;
  const char* error;
};

std::vector<Bad> bad_files() {
  const std::string one = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  return {
      {"empty", "", "too few"},
      {"seven bytes", "1234567", "too few"},
      {"header bomb", raw<uint64_t>(1ull << 40) + "{}", "the limit is 100000000"},
      {"header beyond the end", raw<uint64_t>(1000) + "{}", "truncated"},
      {"not JSON", file_of("{\"a\":", 0), "not a JSON object"},
      {"a list", file_of("[]", 0), "not a JSON object"},
      {"trailing text", file_of("{} x", 0), "not a JSON object"},
      {"deep nesting", file_of("{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}", 0), "not a JSON object"},
      {"invalid UTF-8", file_of("{\"\xff\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8), "not a JSON object"},
      {"truncated data", file_of(one, 7), "ends at byte 8 of 7"},
      {"trailing data", file_of(one, 9), "1 bytes after the last tensor"},
      {"duplicate tensor",
       file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
       "'a' appears twice"},
      {"duplicate field", file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "'dtype' appears twice"},
      {"unknown dtype", file_of(R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8), "tensor 'a': unknown safetensors dtype 'F31'"},
      {"size differs", file_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8), "needs 12 bytes, its range has 8"},
      {"negative extent", file_of(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "integers from 0"},
      {"fractional extent", file_of(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8), "integers from 0"},
      {"shape overflow", file_of(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0), "overflows"},
      {"bytes overflow", file_of(R"({"a":{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0), "overflows"},
      {"offset over 2^63", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})", 8), "data_offsets"},
      {"backward range", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), "wanted [begin, end]"},
      {"three offsets", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}})", 8), "wanted [begin, end]"},
      {"hole", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8), "4 unused bytes before tensor 'a'"},
      {"overlap", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
       "'b' overlaps"},
      {"missing shape", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8), "lacks shape"},
      {"extra field", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8), "unknown field 'x'"},
      {"metadata number", file_of(R"({"__metadata__":{"a":1}})", 0), "'a' is not a text"},
      {"tensor is a number", file_of(R"({"a":1})", 0), "not an object"},
  };
}

TEST(Safetensors, RefusesBadFiles) {
  for (const Bad& bad : bad_files()) {
    SCOPED_TRACE(bad.name);
    expect_error(bad.error, [&] { parse_safetensors(bytes_of(bad.file), "x.safetensors"); });
    expect_error("x.safetensors", [&] { parse_safetensors(bytes_of(bad.file), "x.safetensors"); });
  }
}

TEST(Safetensors, ReadsEmptyTensorsScalarsAndMetadata) {
  const std::string file = file_of(
      R"({"__metadata__":{"format":"pt"},"e":{"dtype":"I8","shape":[0,9],"data_offsets":[0,0]},"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]}})", 8);
  const SafetensorsHeader header = parse_safetensors(bytes_of(file), "x");
  ASSERT_EQ(header.tensors.size(), 2u);
  EXPECT_EQ(header.metadata, (StringPairs{{"format", "pt"}}));
  EXPECT_EQ(header.tensors[0].name, "e");
  EXPECT_EQ(header.tensors[1].bytes.size(), 8u);
  EXPECT_EQ(header.tensors[1].offset, file.size() - 8);
}

TEST(Safetensors, PlanReproducesGoldenFiles) {
  for (const char* name : {"qwen2/hf", "qwen3/hf", "qwen3_untied/hf", "qwen3_tp2pp2/hf", "qwen3_fsdp/hf", "mcore016/qwen3/hf"}) {
    const SafetensorsFile file(golden(name) / "model.safetensors");
    std::vector<TensorSpec> specs;
    for (const TensorView& t : file.tensors()) specs.insert(specs.begin(), {t.name, t.dtype, t.shape});  // any order
    const SafetensorsPlan plan = plan_safetensors(specs, file.metadata());
    const auto bytes = file.mapping().bytes();
    EXPECT_EQ(plan.file_bytes, bytes.size()) << name;
    EXPECT_EQ(plan.header, std::string_view(reinterpret_cast<const char*>(bytes.data()), plan.header.size())) << name;
    for (size_t i = 0; i < specs.size(); ++i) EXPECT_EQ(plan.offsets[i], file.at(specs[i].name).offset) << specs[i].name;
  }
}

TEST(Safetensors, WiderTypesComeFirst) {
  const std::vector<TensorSpec> specs{
      {"a", DType::boolean, {1}}, {"b", DType::bf16, {1}}, {"d", DType::f32, {1}}, {"c", DType::f32, {1}}, {"e", DType::i64, {1}}};
  const SafetensorsPlan plan = plan_safetensors(specs);
  const uint64_t data = plan.header.size();
  EXPECT_EQ(data % 8, 0u);
  EXPECT_EQ(plan.offsets, (std::vector<uint64_t>{data + 18, data + 16, data + 12, data + 8, data}));
}

TEST(Safetensors, ErrorsNameTheNearestTensor) {
  const SafetensorsFile file(golden("qwen3/hf/model.safetensors"));
  EXPECT_EQ(file.find("nothing"), nullptr);
  expect_error("did you mean 'model.norm.weight'?", [&] { file.at("model.norm.weigth"); });
}

TEST(Safetensors, PlanRefusesDuplicatesAndOverflow) {
  const TensorSpec a{"a", DType::f32, {1}}, huge{"h", DType::f32, {1ll << 62}};
  expect_error("two tensors named 'a'", [&] { plan_safetensors(std::vector{a, a}); });
  expect_error("overflows", [&] { plan_safetensors(std::vector{huge}); });
}

}  // namespace
}  // namespace ponte
