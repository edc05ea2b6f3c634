#include "base/dtype.h"

#include <array>
#include <cmath>

#include "base/errors.h"

namespace ponte {
namespace {

struct Row {
  DType dtype;
  int64_t bytes;
  bool floating;
  std::string_view safetensors, torch, storage;
};

constexpr std::array<Row, 16> kRows{{
    {DType::f64, 8, true, "F64", "torch.float64", "DoubleStorage"},
    {DType::f32, 4, true, "F32", "torch.float32", "FloatStorage"},
    {DType::f16, 2, true, "F16", "torch.float16", "HalfStorage"},
    {DType::bf16, 2, true, "BF16", "torch.bfloat16", "BFloat16Storage"},
    {DType::f8_e4m3, 1, true, "F8_E4M3", "torch.float8_e4m3fn", "Float8_e4m3fnStorage"},
    {DType::f8_e5m2, 1, true, "F8_E5M2", "torch.float8_e5m2", "Float8_e5m2Storage"},
    {DType::f8_e8m0, 1, true, "F8_E8M0", "torch.float8_e8m0fnu", "Float8_e8m0fnuStorage"},
    {DType::i64, 8, false, "I64", "torch.int64", "LongStorage"},
    {DType::i32, 4, false, "I32", "torch.int32", "IntStorage"},
    {DType::i16, 2, false, "I16", "torch.int16", "ShortStorage"},
    {DType::i8, 1, false, "I8", "torch.int8", "CharStorage"},
    {DType::u64, 8, false, "U64", "torch.uint64", "UInt64Storage"},
    {DType::u32, 4, false, "U32", "torch.uint32", "UInt32Storage"},
    {DType::u16, 2, false, "U16", "torch.uint16", "UInt16Storage"},
    {DType::u8, 1, false, "U8", "torch.uint8", "ByteStorage"},
    {DType::boolean, 1, false, "BOOL", "torch.bool", "BoolStorage"},
}};

const Row& row(DType dtype) { return kRows[static_cast<size_t>(dtype)]; }

DType find(std::string_view name, std::string_view Row::*column, std::string_view kind) {
  for (const Row& r : kRows)
    if (r.*column == name) return r.dtype;
  fail("unknown {} dtype '{}'", kind, name);
}

}  // namespace

int64_t dtype_bytes(DType dtype) { return row(dtype).bytes; }
bool is_floating(DType dtype) { return row(dtype).floating; }
std::string_view safetensors_name(DType dtype) { return row(dtype).safetensors; }
std::string_view torch_name(DType dtype) { return row(dtype).torch; }
std::string_view torch_storage_name(DType dtype) { return row(dtype).storage; }

DType dtype_from_safetensors(std::string_view name) { return find(name, &Row::safetensors, "safetensors"); }
DType dtype_from_torch(std::string_view name) {
  return name.starts_with("torch.") ? find(name, &Row::torch, "torch") : find(format("torch.{}", name), &Row::torch, "torch");
}
DType dtype_from_torch_storage(std::string_view name) { return find(name, &Row::storage, "torch storage"); }

DType dtype_from_user(std::string_view name) {
  if (name == "bf16") return DType::bf16;
  if (name == "fp16" || name == "half") return DType::f16;
  if (name == "fp32" || name == "float") return DType::f32;
  if (name == "fp64" || name == "double") return DType::f64;
  for (const Row& r : kRows)
    if (r.torch == name || r.torch.substr(6) == name) return r.dtype;
  fail("'{}' is no type of a tensor's elements; bf16 (bfloat16), fp16 (float16) or fp32 (float32) wanted", name);
}

uint16_t bf16_from_f32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// IEEE 754 binary16 by integers: compilers before GCC 12 have no type for it.
uint16_t f16_from_f32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const auto with_sign = [sign](uint32_t half) { return static_cast<uint16_t>(sign | half); };
  if (magnitude > 0x7f800000) return with_sign(0x7e00 | (magnitude >> 13 & 0x1ff));  // NaN, quiet
  if (magnitude >= 0x477ff000) return with_sign(0x7c00);                               // 65520 and more round to infinity
  if (magnitude < 0x38800000)  // subnormal: one half's last place is that of a float near 0.5, so the addition rounds
    return with_sign(std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000);
  const uint32_t half = (magnitude - 0x38000000) >> 13, rest = magnitude & 0x1fff;
  return with_sign(half + (rest > 0x1000 || (rest == 0x1000 && (half & 1))));
}

float f32_from_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f));
  if (exponent < 31) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000u : 0u));
}

}  // namespace ponte
