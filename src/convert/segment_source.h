// A WeightSource that can also be asked where elements come from: the file-to-file paths plan with it, the live path reads with it.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>

#include "base/file.h"
#include "convert/content_checks.h"
#include "convert/dialect.h"
#include "convert/flat_state.h"
#include "convert/transfer.h"
#include "convert/weight_source.h"
#include "format/hf_index.h"
#include "format/torch_dist.h"

namespace ponte {

// Adds copies that fill `to`, a window of segment `segment`, from some set of buffers.
using AppendFeeds = std::function<void(size_t segment, const Window& to, std::vector<Copy>& out)>;

class SegmentSource : public WeightSource {
 public:
  const ModelConfig& config() const override { return config_; }
  const RuleTable& rules() const override { return table_; }
  DType dtype(const Rule& rule) const override;
  void read(const Rule& rule, const Slice& slice, std::span<std::byte> out, DType out_dtype) const override;

  uint64_t bytes_read() const override { return bytes_read_; }
  std::string fingerprint() const override;

  std::span<const SourceBuffer> buffers() const { return buffers_; }
  // Copies from buffers() that fill `to`, a window of segment `segment` of rules().rules[rule].
  virtual void append_feeds(size_t rule, size_t segment, const Window& to, std::vector<Copy>& out) const = 0;
  // What append_feeds' elements still need added to be Megatron's: -1 for a zero-centred norm stored as HF has it.
  virtual float offset(size_t rule) const { return 0; }
  // Number of `rule` in rules(); found by name, so that rules of another table of the same model serve too.
  size_t index_of(const Rule& rule) const;

 protected:
  void index_rules();
  // The body of read, whatever the buffers.
  void fill(const Rule& rule, const Slice& slice, std::span<std::byte> out, DType out_dtype, std::span<const SourceBuffer> buffers, float add,
            const AppendFeeds& append) const;
  ModelConfig config_;
  RuleTable table_;
  std::vector<SourceBuffer> buffers_;
  std::vector<DType> rule_dtypes_;
  mutable std::atomic<uint64_t> bytes_read_{0};

 private:
  std::map<std::string, size_t, std::less<>> by_name_;
};

// Megatron's value minus HF's.
inline float native_offset(const Rule& rule) { return rule.arithmetic == Arithmetic::minus_one ? -1.0f : 0.0f; }

// An HF folder. The constructor accounts for every tensor both ways.
class HfSource : public SegmentSource {
 public:
  explicit HfSource(const fs::path& directory);
  void append_feeds(size_t rule, size_t segment, const Window& to, std::vector<Copy>& out) const override;
  float offset(size_t rule) const override { return native_offset(table_.rules[rule]); }
  const HfCheckpoint& checkpoint() const { return checkpoint_; }
  const std::vector<std::string>& dropped() const { return dropped_; }  // "lm_head.weight: equal to model.embed_tokens.weight (tied)"

 private:
  void check_aliases();
  void bind();
  HfCheckpoint checkpoint_;
  std::vector<std::vector<int64_t>> buffer_of_;  // [rule][source]
  std::vector<std::string> dropped_;
};

// A Megatron checkpoint, torch_dist or fsdp_dtensor, in any chunking.
class NativeSource : public SegmentSource {
 public:
  // `config`: nullptr to take the architecture from the checkpoint. `hf`: the HF tensors its rules shall name where HF stores a family in several ways;
  // empty: as the checkpoint remembers, else the usual way.
  NativeSource(const fs::path& root_or_iteration, const ModelConfig* config, const HfTensors& hf = {});
  void append_feeds(size_t rule, size_t segment, const Window& to, std::vector<Copy>& out) const override;
  float offset(size_t rule) const override;
  std::span<const SegmentChunk> chunks(size_t rule, size_t segment) const { return chunks_[rule][segment]; }
  bool has_state(std::string_view prefix, const Rule& rule) const override;
  void read_state(std::string_view prefix, const Rule& rule, const Slice& slice, std::span<std::byte> out, DType out_dtype) const override;
  std::string fingerprint() const override;
  void check_part(Part part, Contents contents) override;
  void take_as_checked() override;
  const ContentChecks& checks() const { return checks_; }
  // A chunk to copy from, with what its content should be; its bytes live as long as `opened`.
  SourceBuffer open_chunk(const TorchDistTensor& tensor, const TorchDistChunk& chunk, std::vector<ChunkBytes>& opened) const;
  const TorchDistReader& reader() const { return reader_; }
  const fs::path& iteration_directory() const { return directory_; }
  Dialect dialect() const { return dialect_; }

 private:
  friend class StateSource;
  void choose_dialect();
  void bind();
  std::string key_of_state(std::string_view prefix, const Rule& rule, size_t segment) const;
  std::vector<SegmentChunk> bind_state(std::string_view prefix, const Rule& rule, size_t segment, const OpenChunk& open) const;
  bool main_param_rounds_to_weight(const FlatState& flat, const Rule& rule) const;
  fs::path directory_;
  TorchDistReader reader_;
  ContentChecks checks_;
  std::vector<ContentCheck*> divided_;  // those that ranks check together
  Dialect dialect_;
  std::vector<std::vector<std::vector<SegmentChunk>>> chunks_;  // [rule][segment]
  std::vector<ChunkBytes> opened_;                              // keeps owned bytes alive
  // Optimizer state that is not shaped like the model; nullptr where there is none. Laid over the model on first use: weights are read without it.
  const FlatState* flat() const;
  mutable std::mutex flat_mutex_;
  mutable std::optional<FlatState> flat_;
};

// One kind of a training run's state ("param", "exp_avg", "exp_avg_sq") as a source of its own, for the file-to-file paths. Borrows `native`.
class StateSource : public SegmentSource {
 public:
  // UserError when a parameter has none.
  StateSource(const NativeSource& native, std::string_view kind);
  void append_feeds(size_t rule, size_t segment, const Window& to, std::vector<Copy>& out) const override;

 private:
  std::vector<std::vector<std::vector<SegmentChunk>>> chunks_;  // [rule][segment]
  std::vector<ChunkBytes> opened_;
};

// The iter_* folder meant by `path`: itself, or the newest one its tracker names. UserError when it is neither.
fs::path iteration_directory(const fs::path& path);
bool is_native_checkpoint(const fs::path& path);
bool is_hf_checkpoint(const fs::path& path);

}  // namespace ponte
