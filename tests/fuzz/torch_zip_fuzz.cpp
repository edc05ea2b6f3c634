// Any bytes as a torch.save archive.
#include "base/errors.h"
#include "format/torch_zip.h"

namespace {

// Shared values can make a small pickle a huge tree: `budget` bounds the walk.
void touch(const ponte::Value& value, int& budget) {
  using Kind = ponte::Value::Kind;
  if (--budget < 0) return;
  switch (value.kind()) {
    case Kind::tensor: value.as_tensor("t").gather("t"); break;
    case Kind::tuple: case Kind::list: for (const auto& v : value.items("")) touch(v, budget); break;
    case Kind::dict: for (const auto& [k, v] : value.entries("")) touch(v, budget); break;
    default: ponte::describe(value);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ponte;
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const CheckCrc check : {CheckCrc::no, CheckCrc::yes}) {
    try {
      int budget = 10000;
      touch(read_torch_archive(bytes, "fuzz", {}, check), budget);
    } catch (const UserError&) {
    }
  }
  return 0;
}
