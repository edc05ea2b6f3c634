// Weights for a live model, from an HF folder or a Megatron checkpoint (torch_dist, fsdp_dtensor) alike: whoever builds or resumes a model asks for its
// slice of a parameter and never learns which format it came from.
#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/dtype.h"
#include "base/errors.h"
#include "config/model_config.h"
#include "families/rule.h"
#include "layout/placement.h"

namespace ponte {

// One of several parts of a whole.
struct Part {
  int64_t number = 0, count = 1;
};

class WeightSource {
 public:
  // `path`: an HF folder (config.json + safetensors), a Megatron checkpoint's root, or one of its iter_* folders. Checks that every parameter is present
  // with its shape, and that nothing is left over; UserError listing the names otherwise.
  static std::unique_ptr<WeightSource> open(const std::filesystem::path& path);
  // As above for a Megatron checkpoint whose architecture the caller knows (no run_config.yaml is needed); for HF folders `config` must agree.
  static std::unique_ptr<WeightSource> open(const std::filesystem::path& path, const ModelConfig& config);
  virtual ~WeightSource() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const RuleTable& rules() const = 0;
  // Type stored on disk.
  virtual DType dtype(const Rule& rule) const = 0;
  // Fills `out` (row-major, slice.shape, out_dtype) with the slice; padding rows are zeros. Casts as torch's .to(). Const and safe from several threads.
  virtual void read(const Rule& rule, const Slice& slice, std::span<std::byte> out, DType out_dtype) const = 0;
  // Bytes of tensors that read and read_state have taken from the files so far: a rank's share, and nothing of others'. What is only checked does not count.
  virtual uint64_t bytes_read() const = 0;
  // Equal where the content is, wherever the files lie; so that ranks which each open their own can tell. Cheap: names, types and sizes, and the first
  // elements of some tensors. A checkpoint with a manifest: its hashes.
  virtual std::string fingerprint() const = 0;
  // A checkpoint that says what its content should be (ponte/manifest.json) is checked while it is read, each stored chunk whole and before the first of its
  // elements is handed out: UserError naming file, tensor and chunk. Ranks that read one together divide that: each calls check_part with its number, and when
  // all have passed, take_as_checked. With one part both leave it to the reading.
  enum class Contents { weights, weights_and_state };
  virtual void check_part(Part part, Contents contents) {}
  virtual void take_as_checked() {}
  // Model-shaped state beside the weights, LiveShard's counterpart: the tensor stored as `prefix` + the weight's key ("optimizer.state.exp_avg."). Layers
  // stacked like the weight. HF folders have none.
  virtual bool has_state(std::string_view prefix, const Rule& rule) const { return false; }
  virtual void read_state(std::string_view prefix, const Rule& rule, const Slice& slice, std::span<std::byte> out, DType out_dtype) const {
    fail("{}{}: this checkpoint holds weights only", prefix, rule.name());
  }
};

}  // namespace ponte
