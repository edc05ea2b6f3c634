// Any bytes as the `.metadata` of a folder with one sound data file; when it opens, every chunk and object is read.
#include "base/errors.h"
#include "folder.h"
#include "format/torch_dist_metadata.h"

namespace {

using namespace ponte;

const fs::path& folder() {
  return process_folder("torch-dist", [](const fs::path& out) {
    TorchDistWriter writer(out, {.rank = 0, .files = 1});
    writer.add_chunk({"w", DType::f32, {2, 3}}, {0, 0}, {1, 3});
    writer.add_chunk({"w", DType::f32, {2, 3}}, {1, 0}, {1, 3});
    writer.add_object("o", Value::text("hello"));
    writer.begin();
    const std::string data(12, 'x');
    for (size_t i = 0; i < 2; ++i) writer.write(i, 0, std::as_bytes(std::span(data.data(), data.size())));
    writer.finish();
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    parse_dist_metadata(std::as_bytes(std::span(data, size)), "fuzz");  // most inputs end here, without touching the disk
    const fs::path& path = folder();
    {
      OutputFile file(path / ".metadata");
      file.append(std::string_view(reinterpret_cast<const char*>(data), size));
    }
    const TorchDistReader reader(path);
    for (const TorchDistTensor& t : reader.tensors())
      for (const TorchDistChunk& c : t.chunks) reader.bytes(t, c);
    for (const std::string& name : reader.objects()) reader.object(name);
  } catch (const UserError&) {
  }
  return 0;
}
