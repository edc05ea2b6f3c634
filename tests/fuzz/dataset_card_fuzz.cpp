// Any bytes as the card (README.md) of a hub data set: a list of files or a UserError.
#include <cstdlib>

#include "base/errors.h"
#include "corpus/input_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string card(reinterpret_cast<const char*>(data), size);
  const std::vector<std::string> names = {"README.md", "data/a/1.parquet", "data/b.jsonl.gz", "sample/10BT/0.parquet", "test/t.txt"};
  for (const std::string subset : {"", "default", "sample"}) try {
      for (const std::string& name : ponte::dataset_files("org/name", card, names, subset))
        if (name == "README.md") std::abort();
    } catch (const ponte::UserError&) {
    }
  return 0;
}
