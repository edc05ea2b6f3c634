// The first bytes say how long the .idx is; the rest of the input is the .bin. Whatever they hold, reading stays inside the files.
#include <string>

#include "base/errors.h"
#include "folder.h"
#include "format/indexed_dataset.h"

namespace {

void write(const std::string& file, const uint8_t* data, size_t size) {
  ponte::OutputFile out(file);
  out.append(std::as_bytes(std::span(data, size)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ponte;
  if (size < 2) return 0;
  const size_t index = std::min<size_t>(data[0] | data[1] << 8, size - 2);
  const std::string prefix = process_folder("indexed_dataset") / "d";
  write(prefix + ".idx", data + 2, index);
  write(prefix + ".bin", data + 2 + index, size - 2 - index);
  try {
    const IndexedDataset dataset(prefix, data[0] & 1 ? SequenceModes::present : SequenceModes::absent);
    (void)dataset.fingerprint();
    for (int64_t i = 0; i < dataset.sequences(); ++i) {
      try {
        (void)dataset.sequence(i);
      } catch (const UserError&) {
      }
    }
    dataset.verify();
  } catch (const UserError&) {
  }
  return 0;
}
