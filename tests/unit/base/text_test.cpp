// Messages, JSON and scalar conversions.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/dtype.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/wrap.h"

namespace ponte {
namespace {

TEST(Format, ArgumentsOfEveryKind) {
  EXPECT_EQ(format("{} {} {} {:.2f} {}", 1, -2, "x", 0.5, true), "1 -2 x 0.50 true");
  EXPECT_EQ(format("{}", std::vector<int64_t>{1, 2, 3}), "[1, 2, 3]");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1234567), "1.23 MB");
  EXPECT_EQ(human_bytes(999999), "1.00 MB");
  EXPECT_EQ(human_seconds(0.034), "0.03 s");
  EXPECT_EQ(human_seconds(0.96), "1.0 s");
  EXPECT_EQ(human_seconds(59.94), "59.9 s");
  EXPECT_EQ(human_seconds(245), "4 min 05 s");
}

TEST(Wrapped, BreaksAtSpacesUnderTheLastColumn) {
  EXPECT_EQ(wrapped("one two three\nfour\n\nfive", 8), "one two\nthree\nfour\n\nfive");
  EXPECT_EQ(wrapped("  one two three", 10), "  one two\n  three");
  EXPECT_EQ(wrapped("  -a   one two three four", 16), "  -a   one two\n       three\n       four");
  EXPECT_EQ(wrapped("12345678 exactly_more b", 8), "12345678\nexactly_more\nb");
  EXPECT_EQ(wrapped("", 8), "");
  EXPECT_EQ(wrapped("12345678\n", 8), "12345678\n");
}

TEST(Nearest, SuggestsTypingErrorsOnly) {
  const std::vector<std::string> keys{"train_iters", "global_batch_size", "seed"};
  EXPECT_EQ(nearest("train_iter", keys), "train_iters");
  EXPECT_EQ(nearest("tain_itres", keys), "train_iters");
  EXPECT_EQ(nearest("something_else_entirely", keys), "");
}

std::string message_of(std::string_view text) {
  try {
    parse_json(text, "f.json");
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

TEST(Json, ErrorsNameThePlace) {
  EXPECT_EQ(message_of("{\"a\": 1}"), "");
  EXPECT_NE(message_of("{\"a\": 1,\n \"a\": 2}").find("'a' appears twice"), std::string::npos);
  EXPECT_NE(message_of("{\n\"a\": x}").find("line 2, column 6"), std::string::npos) << message_of("{\n\"a\": x}");
  EXPECT_NE(message_of(std::string(5000, '[')).find("nested deeper"), std::string::npos);
  EXPECT_EQ(message_of("{\"a\": {\"b\": 1}, \"b\": 1}"), "");
}

TEST(Json, TypedAccess) {
  const Json j = parse_json(R"({"n": 3, "x": 0.5, "s": "t", "null": null})", "f.json");
  EXPECT_EQ(json_get<int64_t>(j, "n", "f.json"), 3);
  EXPECT_EQ(json_get<double>(j, "n", "f.json"), 3.0);
  EXPECT_THROW(json_get<int64_t>(j, "x", "f.json"), UserError);
  EXPECT_THROW(json_get<int64_t>(j, "absent", "f.json"), UserError);
  EXPECT_EQ(json_get_or<int64_t>(j, "null", 7, "f.json"), 7);
  EXPECT_THROW(json_get_or<int64_t>(j, "s", 7, "f.json"), UserError);
}

TEST(Checked, OverflowAndNegativeExtents) {
  const int64_t big = std::numeric_limits<int64_t>::max() / 2;
  EXPECT_THROW(checked_numel(std::vector<int64_t>{big, 3}, "t"), UserError);
  EXPECT_THROW(checked_numel(std::vector<int64_t>{-1}, "t"), UserError);
  EXPECT_EQ(checked_numel(std::vector<int64_t>{4, 0, 5}, "t"), 0);
}

TEST(DType, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
    const DType d = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_safetensors(safetensors_name(d)), d);
    EXPECT_EQ(dtype_from_torch(torch_name(d)), d);
    EXPECT_EQ(dtype_from_torch_storage(torch_storage_name(d)), d);
  }
  EXPECT_EQ(dtype_from_user("bf16"), DType::bf16);
  EXPECT_THROW(dtype_from_user("bf17"), UserError);
}

// Values from torch: torch.tensor(x).to(torch.bfloat16 / torch.float16).view(torch.int16).
TEST(DType, RoundsToNearestEven) {
  struct Row {
    float value;
    uint16_t bf16, f16;
  };
  const Row rows[] = {{1.0f, 0x3f80, 0x3c00},        {1.00390625f, 0x3f80, 0x3c04}, {1.01171875f, 0x3f82, 0x3c0c}, {3.3895314e38f, 0x7f7f, 0x7c00},
                      {3.4e38f, 0x7f80, 0x7c00},     {65520.0f, 0x4780, 0x7c00},    {65519.0f, 0x4780, 0x7bff},    {5.9604645e-8f, 0x3380, 0x0001},
                      {-0.0f, 0x8000, 0x8000}};
  for (const Row& r : rows) {
    EXPECT_EQ(bf16_from_f32(r.value), r.bf16) << r.value;
    EXPECT_EQ(f16_from_f32(r.value), r.f16) << r.value;
  }
  EXPECT_TRUE(std::isnan(f32_from_bf16(bf16_from_f32(std::nanf("")))));
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float wide = f32_from_bf16(static_cast<uint16_t>(bits));
    if (!std::isnan(wide)) { EXPECT_EQ(bf16_from_f32(wide), bits); }
    const float half = f32_from_f16(static_cast<uint16_t>(bits));
    if (!std::isnan(half)) { EXPECT_EQ(f16_from_f32(half), bits); }
  }
}

TEST(Progress, ALineFitsItsTerminal) {
  const auto bar = [](int full, int empty) {
    std::string out;
    for (int i = 0; i < full; ++i) out += "━";
    for (int i = 0; i < empty; ++i) out += "─";
    return out;
  };
  EXPECT_EQ(progress_line("train", 0.5, "5 of 10", 80), "train  " + bar(12, 12) + " 5 of 10");
  EXPECT_EQ(progress_line("train", 0.5, "5 of 10", 31), "train  " + bar(8, 7) + " 5 of 10");   // 30 columns are used
  EXPECT_EQ(progress_line("train", 0.5, "5 of 10", 20), "train  " + bar(3, 3) + " 5 of…");
  EXPECT_EQ(progress_line("train", std::nullopt, "5 of 10", 80), "train  5 of 10");
  EXPECT_EQ(progress_line("train", std::nullopt, "5 of 10", 10), "train  5…");
  EXPECT_EQ(progress_line("train", 1.0, "x", 1), "…");
  EXPECT_EQ(progress_line("train", 1.0, "x", 0), "…");
}

}  // namespace
}  // namespace ponte
