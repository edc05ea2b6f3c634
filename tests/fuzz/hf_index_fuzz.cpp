// Any bytes as model.safetensors.index.json beside two small shards.
#include <simdjson.h>

#include "base/errors.h"
#include "folder.h"
#include "format/hf_index.h"

namespace {

using namespace ponte;

// A folder of this process with the shards a.safetensors (tensor "a") and b.safetensors (tensor "b").
const fs::path& folder() {
  return process_folder("hf-index", [](const fs::path& out) {
    for (const char* name : {"a", "b"}) {
      const SafetensorsPlan plan = plan_safetensors(std::vector<TensorSpec>{{name, DType::u8, {1}}});
      OutputFile file(out / format("{}.safetensors", name));
      file.append(plan.header + "x");
    }
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    simdjson::dom::parser parser;
    simdjson::dom::object map;
    if (parser.parse(text.data(), text.size(), true)["weight_map"].get(map) != simdjson::SUCCESS) return 0;  // most inputs end here, off the disk
    {
      OutputFile file(folder() / kSafetensorsIndex);
      file.append(text);
    }
    const HfCheckpoint checkpoint(folder());
    if (checkpoint.tensors().size() > 2) __builtin_trap();
  } catch (const UserError&) {
  }
  return 0;
}
