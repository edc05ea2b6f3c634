// Verification compares in Megatron's order: what HF's tensors give for every stored chunk against the chunk itself. Both sides are read once.
#include <algorithm>
#include <chrono>

#include "base/errors.h"
#include "convert/convert.h"
#include "convert/hash_check.h"
#include "convert/native_config.h"
#include "convert/native_writer.h"

namespace ponte {
namespace {

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
        Target wanted{rules[r].name(), stored, window.elements(), {}, hf.offset(number) - native.offset(r)};
        Target found{rules[r].name(), stored, window.elements(), {}};
        hf.append_feeds(number, s, window, wanted.copies);
        append_copies(chunk.window, window, chunk.buffer, found.copies);
        out.from_hf.push_back(std::move(wanted));
        out.from_native.push_back(std::move(found));
      }
  }
  return out;
}

void compare(const HfSource& hf, const NativeSource& native, const Comparison& plan, const std::string& subject, int64_t threads) {
  Differences findings;
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
  report.manifest_checked = native.checks().present();
  require(hf || report.manifest_checked, "{}: no manifest of Ponte is in it; give --hf-model to compare with", native.iteration_directory());
  check_native_manifest(native, options.threads);
  report.compared.architecture = native.config().hf_architecture;
  report.compared.tensors = static_cast<int64_t>(native.reader().tensors().size());
  for (const TorchDistTensor& t : native.reader().tensors()) report.compared.bytes += static_cast<uint64_t>(tensor_bytes({t.name, t.dtype, t.shape}));
  if (hf) {
    check_hf_manifest(hf->checkpoint(), options.threads);
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
