// Any bytes as a safetensors file: an error, or tensors that tile the data area.
#include "base/errors.h"
#include "format/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ponte;
  try {
    const SafetensorsHeader header = parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz");
    std::vector<TensorSpec> specs;
    uint64_t bytes = 0;
    for (const TensorView& t : header.tensors) {
      for (const std::byte b : t.bytes) bytes += static_cast<uint64_t>(b) & 0;
      bytes += t.bytes.size();
      specs.push_back({t.name, t.dtype, t.shape});
    }
    if (plan_safetensors(specs, header.metadata).file_bytes < bytes) __builtin_trap();
  } catch (const UserError&) {
  }
  return 0;
}
