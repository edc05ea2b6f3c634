// Verification compares in Megatron's order: what HF's tensors give for every stored chunk against the chunk itself. Both sides are read once.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <set>

#include "base/errors.h"
#include "convert/convert.h"
#include "convert/native_config.h"
#include "convert/native_writer.h"

namespace ponte {
namespace {

constexpr size_t kListed = 20;

// What was found wrong, by tensor; filled from several threads.
class Findings {
 public:
  void add(const std::string& name, const std::string& text) {
    std::lock_guard lock(mutex_);
    found_.emplace(name, text);  // the first finding of a tensor is enough
  }
  void settle(const std::string& headline) const {
    if (found_.empty()) return;
    std::string text = format("{}: {} tensors differ", headline, found_.size());
    size_t n = 0;
    for (const auto& [name, what] : found_) {
      if (++n > kListed) break;
      text += format("\n    {}: {}", name, what);
    }
    if (found_.size() > kListed) text += format("\n    ... and {} more", found_.size() - kListed);
    fail("{}", text);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> found_;
};

// The stored bytes against the hashes written with them: finds a changed or damaged checkpoint without its source.
void check_manifest(const NativeSource& source, const fs::path& file, int64_t threads) {
  const Manifest manifest = read_manifest(file);
  std::vector<Target> targets;
  std::vector<std::string> wanted;
  std::vector<SourceBuffer> buffers;
  Findings findings;
  std::vector<ChunkBytes> opened;
  for (const auto& [name, tensor] : manifest.tensors) {
    const TorchDistTensor* stored = source.reader().find(name);
    if (!stored || stored->dtype != tensor.dtype || stored->shape != tensor.shape || stored->chunks.size() != tensor.chunks.size()) {
      findings.add(name, stored ? "another type, shape or chunking than the manifest's" : "gone");
      continue;
    }
    for (const ManifestChunk& chunk : tensor.chunks) {
      const auto match = std::ranges::find_if(stored->chunks, [&](const TorchDistChunk& c) { return c.offsets == chunk.offsets && c.sizes == chunk.sizes; });
      if (match == stored->chunks.end()) {
        findings.add(name, format("no chunk at {}", chunk.offsets));
        continue;
      }
      opened.push_back(source.reader().bytes(*stored, *match));
      const int64_t elements = static_cast<int64_t>(opened.back().bytes.size()) / dtype_bytes(tensor.dtype);
      targets.push_back({name, tensor.dtype, elements, {{static_cast<int64_t>(buffers.size()), 0, 0, {{elements, 1, 1}}}}});
      buffers.push_back({name, tensor.dtype, opened.back().bytes});
      wanted.push_back(chunk.hash);
    }
  }
  for (const TorchDistTensor& stored : source.reader().tensors())
    if (!manifest.tensors.contains(stored.name)) findings.add(stored.name, "stored, but not in the manifest");
  const auto hashes = run_transfer(buffers, targets, [](size_t, uint64_t, std::span<const std::byte>, auto*) {}, {threads, "check hashes"});
  for (size_t i = 0; i < targets.size(); ++i)
    if (hashes[i] != wanted[i]) findings.add(targets[i].name, "its content is not what was written");
  findings.settle(file.string());
}

struct Comparison {
  std::vector<Target> from_hf, from_native;  // one each per stored chunk, of the same elements in the same order
  std::vector<std::string> casts;
};

Comparison plan_comparison(const HfSource& hf, const NativeSource& native) {
  Comparison out;
  const auto& rules = native.rules().rules;
  for (size_t r = 0; r < rules.size(); ++r) {
    const DType stored = native.dtype(rules[r]), original = hf.dtype(rules[r]);
    if (stored != original) out.casts.push_back(format("{}: {} to {}", rules[r].name(), torch_name(original), torch_name(stored)));
    for (size_t s = 0; s < rules[r].segments.size(); ++s)
      for (const SegmentChunk& chunk : native.chunks(r, s)) {
        const Window window = dense_window(chunk.window.begin, chunk.window.end);
        const size_t number = hf.index_of(rules[r]);
        Target wanted{rules[r].name(), stored, window.elements(), {}, hf.offset(number)}, found{rules[r].name(), stored, window.elements(), {}};
        hf.append_feeds(number, s, window, wanted.copies);
        append_copies(chunk.window, window, chunk.buffer, found.copies);
        out.from_hf.push_back(std::move(wanted));
        out.from_native.push_back(std::move(found));
      }
  }
  return out;
}

void compare(const HfSource& hf, const NativeSource& native, const Comparison& plan, const std::string& subject, int64_t threads) {
  Findings findings;
  const auto sink = [&](size_t target, uint64_t offset, std::span<const std::byte> wanted, auto*) {
    thread_local std::vector<std::byte> scratch;
    const Target& t = plan.from_hf[target];
    const int64_t element = dtype_bytes(t.dtype), begin = static_cast<int64_t>(offset) / element, n = static_cast<int64_t>(wanted.size()) / element;
    const auto found = gather(native.buffers(), plan.from_native[target], begin, begin + n, scratch);
    const auto at = std::mismatch(wanted.begin(), wanted.end(), found.begin()).first;
    if (at != wanted.end()) findings.add(t.name, format("from element {} of a stored piece on", begin + (at - wanted.begin()) / element));
  };
  run_transfer(hf.buffers(), plan.from_hf, sink, {threads, "verify"});
  findings.settle(subject);
}

}  // namespace

VerifyReport verify_checkpoint(const VerifyOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  VerifyReport report;
  std::optional<HfSource> hf;
  if (options.hf_model) hf.emplace(*options.hf_model);
  const NativeSource native(options.megatron_path, hf ? &hf->config() : nullptr);
  const fs::path manifest = native.iteration_directory() / kKeptFolder / kNativeManifest;
  report.manifest_checked = fs::exists(manifest);
  require(hf || report.manifest_checked, "{}: no manifest of Ponte is in it; give --hf-model to compare with", native.iteration_directory());
  if (report.manifest_checked) check_manifest(native, manifest, options.threads);
  report.compared.architecture = native.config().hf_architecture;
  if (hf) {
    require(hf->config().share_embeddings_and_output_weights == native.config().share_embeddings_and_output_weights,
            "{} has {} output layer of its own, {} has {}", options.megatron_path, native.config().share_embeddings_and_output_weights ? "no" : "an",
            *options.hf_model, hf->config().share_embeddings_and_output_weights ? "none" : "one");
    const Comparison plan = plan_comparison(*hf, native);
    compare(*hf, native, plan, format("{} and {}", *options.hf_model, options.megatron_path), options.threads);
    report.compared.casts = plan.casts;
    report.compared.dropped = hf->dropped();
    report.compared.tensors = static_cast<int64_t>(hf->checkpoint().tensors().size());
    report.compared.bytes = hf->checkpoint().total_bytes();
  }
  report.compared.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace ponte
