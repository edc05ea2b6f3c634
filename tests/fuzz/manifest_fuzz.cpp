// Any bytes as a manifest: an error, or a manifest that is written back and read as the same.
#include <cstdint>

#include "base/errors.h"
#include "convert/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ponte;
  Manifest manifest;
  try {
    manifest = parse_manifest({reinterpret_cast<const char*>(data), size}, "fuzz.json");
  } catch (const UserError&) {
    return 0;
  }
  const std::string text = manifest_text(manifest);
  if (manifest_text(parse_manifest(text, "written.json")) != text) __builtin_trap();
  return 0;
}
