// The content hashes of a Megatron checkpoint's chunks, as its manifest has them, and who still has to compare them. A chunk is compared whole, once, before
// the first of its elements is used; a damaged byte is an error and never a weight.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/weight_source.h"
#include "format/torch_dist.h"

namespace ponte {

// What was found wrong, by tensor; filled from several threads.
class Differences {
 public:
  void add(const std::string& name, const std::string& text);  // the first of a tensor is kept
  // UserError "<headline>: <n> tensors differ" and a list, when there are any.
  void settle(const std::string& headline, std::string_view what = "tensors") const;

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> found_;
};

// Of one chunk. Safe from several threads: one compares, the others wait.
class ContentCheck {
 public:
  ContentCheck(const TorchDistReader& reader, const TorchDistTensor& tensor, const TorchDistChunk& chunk, std::string hash)
      : reader_(reader), tensor_(tensor), chunk_(chunk), hash_(std::move(hash)) {}
  // `bytes`: all of the chunk. UserError naming file, tensor and chunk when they are not what was written.
  void require_of(std::span<const std::byte> bytes);
  bool holds_for(std::span<const std::byte> bytes);
  void take_as_done() { done_ = true; }
  bool done() const { return done_; }
  const TorchDistTensor& tensor() const { return tensor_; }
  const TorchDistChunk& chunk() const { return chunk_; }
  std::string where() const;  // "the chunk at [0, 0] in __0_0.distcp"

 private:
  const TorchDistReader& reader_;
  const TorchDistTensor& tensor_;
  const TorchDistChunk& chunk_;
  std::string hash_;
  std::atomic<bool> done_{false};
  std::mutex mutex_;
};

class ContentChecks {
 public:
  // Of <iteration>/ponte/manifest.json; none where another program wrote the checkpoint. UserError when the manifest cannot be read, or speaks of other
  // tensors or chunks than .metadata. Tensors it does not name are not checked.
  explicit ContentChecks(const TorchDistReader& reader);
  ContentChecks(const ContentChecks&) = delete;
  bool present() const { return present_; }  // whether there is a manifest
  const fs::path& manifest() const { return manifest_; }
  // nullptr: no hash of it is known.
  ContentCheck* of(const TorchDistChunk& chunk) const;
  // Those of the tensors `wanted`, in the order they lie in the files.
  using Wanted = std::function<bool(const TorchDistTensor&)>;
  std::vector<ContentCheck*> of_tensors(const Wanted& wanted) const;
  // Compares one part of `checks`, about as many bytes as any other. Parts as many as ranks that wrote are about what each of them wrote. UserError listing
  // what differs. label: of a progress bar; "": none.
  void compare(std::span<ContentCheck* const> checks, Part part, int64_t threads, const std::string& label) const;

 private:
  const TorchDistReader& reader_;
  fs::path manifest_;
  bool present_ = false;
  std::unordered_map<const TorchDistChunk*, std::unique_ptr<ContentCheck>> checks_;
};

}  // namespace ponte
