// Element types of the files Ponte reads, with their names in each ecosystem, and the exact scalar conversions casts are made of.
#pragma once
#include <bit>
#include <cstdint>
#include <string_view>

namespace ponte {

enum class DType : uint8_t { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, f8_e8m0, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

int64_t dtype_bytes(DType dtype);
bool is_floating(DType dtype);
std::string_view safetensors_name(DType dtype);  // "BF16"
std::string_view torch_name(DType dtype);        // "torch.bfloat16"
std::string_view torch_storage_name(DType dtype);  // "BFloat16Storage", as in pickles written by torch.save
// Each throws UserError naming the text when it is none of the names.
DType dtype_from_safetensors(std::string_view name);
DType dtype_from_torch(std::string_view name);          // "torch.bfloat16" or "bfloat16"
DType dtype_from_torch_storage(std::string_view name);
DType dtype_from_user(std::string_view name);           // bf16, bfloat16, torch.bfloat16, fp16, float16, fp32, float32, ...

// Round to nearest even, NaN kept NaN, overflow to infinity: as torch's .to().
uint16_t bf16_from_f32(float value);
uint16_t f16_from_f32(float value);
float f32_from_f16(uint16_t bits);
inline float f32_from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

}  // namespace ponte
