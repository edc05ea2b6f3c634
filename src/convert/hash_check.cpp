#include "convert/hash_check.h"

#include "base/errors.h"
#include "convert/manifest.h"
#include "convert/transfer.h"

namespace ponte {
namespace {

// Pieces of tensors, each one run of bytes, and the hash each should have.
class HashCheck {
 public:
  void expect(const std::string& name, DType dtype, std::span<const std::byte> bytes, const std::string& hash) {
    const int64_t elements = static_cast<int64_t>(bytes.size()) / dtype_bytes(dtype);
    targets_.push_back({name, dtype, elements, {{static_cast<int64_t>(buffers_.size()), 0, 0, {{elements, 1, 1}}}}});
    buffers_.push_back({name, dtype, bytes});
    wanted_.push_back(hash);
  }
  void run(int64_t threads, Differences& differences) const {
    const auto hashes = run_transfer(buffers_, targets_, [](size_t, uint64_t, std::span<const std::byte>, auto*) {}, {threads, "check hashes"});
    for (size_t i = 0; i < targets_.size(); ++i)
      if (hashes[i] != wanted_[i]) differences.add(targets_[i].name, "its content is not what was written");
  }

 private:
  std::vector<Target> targets_;
  std::vector<std::string> wanted_;
  std::vector<SourceBuffer> buffers_;
};

}  // namespace

void check_native_manifest(const NativeSource& source, int64_t threads) {
  const ContentChecks& checks = source.checks();
  if (!checks.present()) return;
  Differences differences;
  for (const TorchDistTensor& tensor : source.reader().tensors())
    if (!tensor.chunks.empty() && !checks.of(tensor.chunks[0])) differences.add(tensor.name, "stored, but not in the manifest");
  differences.settle(checks.manifest().string());
  checks.compare(checks.of_tensors([](const TorchDistTensor&) { return true; }), {}, threads, "check hashes");
}

void check_hf_manifest(const HfCheckpoint& checkpoint, int64_t threads) {
  const fs::path file = checkpoint.directory() / kHfManifest;
  if (!fs::exists(file)) return;
  const Manifest manifest = read_manifest(file);
  Differences differences;
  HashCheck check;
  for (const auto& [name, tensor] : manifest.tensors) {
    const HfTensor* stored = checkpoint.find(name);
    if (!stored || stored->dtype != tensor.dtype || stored->shape != tensor.shape || tensor.chunks.size() != 1)
      differences.add(name, stored ? "another type or shape than the manifest's" : "gone");
    else
      check.expect(name, tensor.dtype, stored->bytes, tensor.chunks[0].hash);
  }
  for (const HfTensor& stored : checkpoint.tensors())
    if (!manifest.tensors.contains(stored.name)) differences.add(stored.name, "stored, but not in the manifest");
  check.run(threads, differences);
  differences.settle(format("{} (remove it if the model was changed on purpose)", file));
}

}  // namespace ponte
