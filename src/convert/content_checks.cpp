#include "convert/content_checks.h"

#include <algorithm>
#include <optional>

#include "base/errors.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "convert/manifest.h"
#include "convert/native_config.h"

namespace ponte {
namespace {

constexpr size_t kListed = 20;
constexpr const char* kRemedy = "the checkpoint is damaged; if another program has changed it on purpose, remove";

uint64_t bytes_of(const ContentCheck& check) { return static_cast<uint64_t>(tensor_bytes({check.tensor().name, check.tensor().dtype, check.chunk().sizes})); }

// Of one tensor of the manifest and its stored counterpart.
void match_chunks(const TorchDistReader& reader, const TorchDistTensor& stored, const ManifestTensor& tensor, Differences& differences,
                  std::unordered_map<const TorchDistChunk*, std::unique_ptr<ContentCheck>>& out) {
  for (const ManifestChunk& chunk : tensor.chunks) {
    const auto match = std::ranges::lower_bound(stored.chunks, chunk.offsets, {}, &TorchDistChunk::offsets);
    const bool found = match != stored.chunks.end() && match->offsets == chunk.offsets && match->sizes == chunk.sizes;
    if (!found || !out.try_emplace(&*match, std::make_unique<ContentCheck>(reader, stored, *match, chunk.hash)).second)
      differences.add(stored.name, format("no chunk at {}", chunk.offsets));
  }
}

void check_files(const Manifest& manifest, const fs::path& folder, const std::string& headline) {
  Differences differences;
  for (const auto& [name, hash] : manifest.files) {
    const fs::path file = folder / name;
    if (!fs::exists(file)) differences.add(name, "gone");
    else if (content_hash(MappedFile(file).bytes()) != hash) differences.add(name, "its content is not what was written");
  }
  differences.settle(headline, "files");
}

}  // namespace

void Differences::add(const std::string& name, const std::string& text) {
  std::lock_guard lock(mutex_);
  found_.emplace(name, text);
}

void Differences::settle(const std::string& headline, std::string_view what) const {
  if (found_.empty()) return;
  std::string text = format("{}: {} {} differ", headline, found_.size(), what);
  size_t n = 0;
  for (const auto& [name, difference] : found_) {
    if (++n > kListed) break;
    text += format("\n    {}: {}", name, difference);
  }
  if (found_.size() > kListed) text += format("\n    ... and {} more", found_.size() - kListed);
  fail("{}", text);
}

std::string ContentCheck::where() const { return format("the chunk at {} in {}", chunk_.offsets, reader_.file(chunk_.file).path().filename()); }

bool ContentCheck::holds_for(std::span<const std::byte> bytes) {
  if (done_) return true;
  const std::lock_guard lock(mutex_);
  if (!done_) done_ = content_hash(bytes) == hash_;
  return done_;
}

void ContentCheck::require_of(std::span<const std::byte> bytes) {
  if (holds_for(bytes)) return;
  fail("{}: '{}': the content of the chunk at {} is not what was written: {} {}", reader_.file(chunk_.file).path(), tensor_.name, chunk_.offsets, kRemedy,
       reader_.directory() / kKeptFolder / kNativeManifest);
}

ContentChecks::ContentChecks(const TorchDistReader& reader)
    : reader_(reader), manifest_(reader.directory() / kKeptFolder / kNativeManifest), present_(fs::exists(manifest_)) {
  if (!present_) return;
  const std::string headline = format("{} ({} {})", reader.directory(), kRemedy, manifest_);
  const Manifest manifest = read_manifest(manifest_);
  check_files(manifest, reader.directory(), headline);
  Differences differences;
  for (const auto& [name, tensor] : manifest.tensors) {
    const TorchDistTensor* stored = reader.find(name);
    if (!stored || stored->dtype != tensor.dtype || stored->shape != tensor.shape || stored->chunks.size() != tensor.chunks.size())
      differences.add(name, stored ? "another type, shape or chunking than the manifest's" : "gone");
    else
      match_chunks(reader, *stored, tensor, differences, checks_);
  }
  differences.settle(headline);
}

ContentCheck* ContentChecks::of(const TorchDistChunk& chunk) const {
  const auto found = checks_.find(&chunk);
  return found == checks_.end() ? nullptr : found->second.get();
}

std::vector<ContentCheck*> ContentChecks::of_tensors(const Wanted& wanted) const {
  std::vector<ContentCheck*> out;
  for (const TorchDistTensor& tensor : reader_.tensors()) {
    if (!wanted(tensor)) continue;
    for (const TorchDistChunk& chunk : tensor.chunks)
      if (ContentCheck* check = of(chunk)) out.push_back(check);
  }
  // __2_0.distcp before __10_0.distcp, so that equal parts are what ranks wrote.
  std::map<std::pair<size_t, std::string>, size_t> sorted;
  for (size_t f = 0; f < reader_.files(); ++f) {
    const std::string name = reader_.file(f).path().filename();
    sorted.emplace(std::pair(name.size(), name), f);
  }
  std::vector<size_t> place(reader_.files());
  size_t next = 0;
  for (const auto& [name, file] : sorted) place[file] = next++;
  std::ranges::sort(out, {}, [&](const ContentCheck* check) { return std::pair(place[check->chunk().file], check->chunk().item_offset); });
  return out;
}

void ContentChecks::compare(std::span<ContentCheck* const> checks, Part part, int64_t threads, const std::string& label) const {
  uint64_t total = 0, before = 0, own = 0;
  for (const ContentCheck* check : checks) total += bytes_of(*check);
  std::vector<ContentCheck*> mine;
  for (ContentCheck* check : checks) {
    const uint64_t bytes = bytes_of(*check), middle = before + bytes / 2;
    before += bytes;
    const double share = total == 0 ? 0 : static_cast<double>(middle) / static_cast<double>(total) * static_cast<double>(part.count);
    if (std::min(static_cast<int64_t>(share), part.count - 1) != part.number) continue;
    mine.push_back(check);
    own += bytes;
  }
  std::optional<Progress> progress;
  if (!label.empty()) progress.emplace(label, own, Progress::Unit::bytes);
  Differences differences;
  parallel_for(static_cast<int64_t>(mine.size()), threads, [&](int64_t i) {
    ContentCheck& check = *mine[static_cast<size_t>(i)];
    if (!check.holds_for(reader_.bytes(check.tensor(), check.chunk()).bytes))
      differences.add(check.tensor().name, format("the content of {} is not what was written", check.where()));
    if (progress) progress->advance(bytes_of(check));
  });
  differences.settle(format("{} ({} {})", reader_.directory(), kRemedy, manifest_));
}

}  // namespace ponte
