// Any bytes as a cached index (.npy): reading stays inside the file.
#include "base/errors.h"
#include "corpus/index_array.h"
#include "folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ponte;
  const fs::path file = process_folder("index_array") / "x.npy";
  {
    OutputFile out(file);
    out.append(std::as_bytes(std::span(data, size)));
  }
  try {
    const auto index = IndexArray::load(file);
    int64_t sum = 0;
    for (int64_t i = 0; index && i < index->size(); ++i) sum ^= (*index)[i];
    volatile int64_t sink = sum;
    (void)sink;
  } catch (const UserError&) {
  }
  return 0;
}
