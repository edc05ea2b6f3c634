// Any bytes as a pickle: an error, or a value that writes and reads to itself.
#include "base/errors.h"
#include "format/pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ponte;
  static const std::string kStorage(64, 's');
  const StorageResolver storage = [](DType dtype, const std::string& key, int64_t elements) {
    require(elements >= 0 && elements <= 64 / dtype_bytes(dtype), "storage of {} elements", elements);
    const auto bytes = std::as_bytes(std::span(kStorage.data(), static_cast<size_t>(elements * dtype_bytes(dtype))));
    return StorageReference{dtype, key, elements, bytes, {}};
  };
  try {
    const Value value = read_pickle(std::as_bytes(std::span(data, size)), "fuzz", {.storage = storage});
    describe(value);
    const PickleWriteOptions keys{.storage_key = [](const TensorValue& t) { return t.storage_key; }};
    const std::string written = write_pickle(value, keys);
    const Value again = read_pickle(std::as_bytes(std::span(written.data(), written.size())), "again", {.storage = storage});
    if (describe(again) != describe(value)) __builtin_trap();
    if (value.kind() == Value::Kind::tensor) value.as_tensor("t").gather("t");
  } catch (const UserError&) {
  }
  return 0;
}
