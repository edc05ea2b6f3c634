// Lines out of any bytes, compressed or not, and the text of each as JSON. The first byte picks the block size and the limit on lines.
#include <cstdlib>
#include <string>

#include "base/errors.h"
#include "corpus/json_text.h"
#include "folder.h"
#include "format/jsonl.h"

namespace {

void read_json(ponte::JsonTextReader& reader, std::string_view line) {
  std::string padded(line);
  padded.append(ponte::kJsonPadding, '\0');
  if (reader.read(std::string_view(padded).substr(0, line.size()))) return;
  for (const auto text : reader.texts(0)) (void)std::string(text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ponte;
  static JsonTextReader json({"text", "b"});
  if (size < 1) return 0;
  const fs::path file = process_folder("jsonl") / "x";
  {
    OutputFile out(file);
    out.append(std::as_bytes(std::span(data + 1, size - 1)));
  }
  try {
    LineReader reader(file, size_t{1} << (data[0] & 7), uint64_t{1} << (data[0] >> 4));
    uint64_t total = 0;
    for (LineBlock block; total < (1 << 22) && reader.next(block);) {
      if (block.oversized == 0 && block.bytes.empty()) std::abort();
      if (block.oversized == 0 && static_cast<int64_t>(split_lines(block.bytes).size()) != block.lines) std::abort();
      total += block.bytes.size() + block.oversized;
      for (const auto line : split_lines(block.bytes)) read_json(json, line);
    }
  } catch (const UserError&) {
  }
  return 0;
}
