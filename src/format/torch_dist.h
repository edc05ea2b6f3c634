// Checkpoints of torch.distributed.checkpoint (DCP) as Megatron writes them: `.metadata` (a pickle: what there is, and where) and
// `__<rank>_<k>.distcp` files, concatenations of torch.save archives, one per chunk of a tensor or per object.
// Source: torch/distributed/checkpoint/{metadata,filesystem,planner}.py, megatron/core/dist_checkpointing.
#pragma once
#include <map>
#include <mutex>
#include <optional>

#include "format/safetensors.h"
#include "format/torch_zip.h"

namespace ponte {

// A box of a tensor, in elements, and the archive that holds it.
struct TorchDistChunk {
  std::vector<int64_t> offsets, sizes;  // same rank as the tensor
  size_t file = 0;                      // index into files()
  uint64_t item_offset = 0, item_bytes = 0;
};

struct TorchDistTensor {
  std::string name;  // the key, as written: "decoder.layers.mlp.linear_fc2.weight"
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::vector<TorchDistChunk> chunks;  // cover the tensor exactly; sorted by offsets
};

// The elements of one chunk in row-major order.
struct ChunkBytes {
  std::span<const std::byte> bytes;  // mapped from the file; from `owned` where the chunk was stored with other strides
  uint64_t file_offset = 0;          // of bytes[0] in the chunk's file; meaningless when owned
  std::shared_ptr<std::vector<std::byte>> owned;
};

// Both dialects. Opening reads `.metadata` and checks every entry (bounds of items in their files, chunks covering their tensor without overlap, plain
// file names); the archives are looked into when asked for. All const members may be called from several threads.
class TorchDistReader {
 public:
  explicit TorchDistReader(const fs::path& directory);  // the iter_* folder
  const std::vector<TorchDistTensor>& tensors() const { return tensors_; }  // in the order of .metadata
  const TorchDistTensor* find(std::string_view name) const;                 // nullptr when absent
  const TorchDistTensor& at(std::string_view name) const;                   // UserError with the nearest name
  // Reads the archive's directory and pickle (once per call: keep the result) and checks them against dtype and sizes. `check` reads all bytes.
  ChunkBytes bytes(const TorchDistTensor& tensor, const TorchDistChunk& chunk, CheckCrc check = CheckCrc::no) const;

  const std::vector<std::string>& objects() const { return object_names_; }  // e.g. "rng_state/shard_0.0_1.1", "common_state/shard_0_1"
  bool has_object(std::string_view name) const;
  Value object(std::string_view name) const;                            // UserError when absent
  std::span<const std::byte> object_bytes(std::string_view name) const;  // the stored archive itself

  // Non-sharded state of Megatron: common.pt where it exists, else the object common_state/shard_0_1; nullopt for fsdp_dtensor.
  std::optional<Value> common_state() const;
  const fs::path& directory() const { return directory_; }
  size_t files() const { return files_.size(); }
  const MappedFile& file(size_t index) const { return *files_[index]; }

 private:
  struct Object {
    size_t file = 0;
    uint64_t offset = 0, bytes = 0;
  };
  fs::path directory_;
  std::vector<std::shared_ptr<const MappedFile>> files_;  // shared with the tensors inside object()
  std::vector<TorchDistTensor> tensors_;
  std::unordered_map<std::string, size_t> tensor_index_;
  std::vector<std::string> object_names_;
  std::unordered_map<std::string, Object> objects_;
  std::string item_name(size_t file, std::string_view key) const;
};

// What metadata.json says: {"sharded_backend": "torch_dist", ...}.
struct TorchDistFormat {
  std::string sharded_backend;  // "torch_dist"
  int64_t sharded_backend_version = 1;
};
std::optional<TorchDistFormat> read_metadata_json(const fs::path& directory);  // nullopt when the file is absent (fsdp_dtensor)
std::string metadata_json();  // content of the file for a torch_dist checkpoint with common.pt

// Writes one. Three phases:
//   1. add_chunk / add_object for everything, on one thread; then begin() fixes the layout, creates the files and reserves their room;
//   2. write(chunk, offset, bytes) from any threads, every byte of every chunk exactly once;
//   3. finish() adds headers and `.metadata` after checking that nothing is missing. Files are complete but not fsynced: publish the folder with
//      StagedDirectory. Neither common.pt nor metadata.json is written here (save_torch_file, metadata_json).
// Several ranks: each has a writer with its own rank and only its chunks, and calls finish_rank(); one of them joins the parts with write_dist_metadata.
struct TorchDistWriterOptions {
  int64_t rank = 0;
  int64_t files = 2;  // __<rank>_0.distcp ...; chunks go to the file with the fewest bytes
};

class TorchDistWriter {
 public:
  TorchDistWriter(const fs::path& directory, TorchDistWriterOptions options = {});
  ~TorchDistWriter();
  // One box of tensor `name`; all boxes of a name must agree in dtype and shape. Returns the chunk's number: 0, 1, ...
  size_t add_chunk(const TensorSpec& tensor, std::vector<int64_t> offsets, std::vector<int64_t> sizes);
  size_t add_tensor(const TensorSpec& tensor);  // one chunk that is the whole tensor
  void add_object(std::string name, const Value& value);
  void add_object_bytes(std::string name, std::string archive);  // a ready torch.save archive

  void begin();
  size_t chunks() const;
  uint64_t chunk_bytes(size_t chunk) const;
  uint64_t total_bytes() const;  // of this rank's data files, after begin()
  // Copies bytes to [offset, offset + bytes.size()) of the chunk's row-major elements. Any size; pieces of 256 KiB to a few MiB are fastest.
  void write(size_t chunk, uint64_t offset, std::span<const std::byte> bytes);
  void finish();              // UserError when the chunks of a tensor leave a hole or overlap
  std::string finish_rank();  // this rank's part of .metadata

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Joins the parts of all ranks into `.metadata`. UserError when the chunks of a tensor leave a hole or overlap, or two ranks wrote one object.
void write_dist_metadata(const fs::path& directory, std::span<const std::string> parts);

}  // namespace ponte
