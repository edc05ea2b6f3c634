// Checkpoint conversion, file to file: import (Hugging Face to Megatron), export (back), convert (Megatron to Megatron), verify (both sides, bit by bit).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "convert/dialect.h"

namespace ponte {

struct ConversionReport {
  std::string architecture;
  int64_t tensors = 0;  // on the Hugging Face side
  uint64_t bytes = 0;   // written, or compared
  double seconds = 0;
  std::vector<std::string> casts, dropped, absent;  // as in the manifest
  bool has_tokenizer = true;                        // export: whether one came along
};

struct ImportOptions {
  Container format = Container::torch_dist;
  fs::path hf_model;         // folder
  std::string reference;     // what the user called it, recorded in run_config.yaml
  fs::path megatron_path;    // root to be created
  std::optional<DType> torch_dtype;
  StagedDirectory::Existing existing = StagedDirectory::Existing::refuse;
  int64_t threads = 0;
};
// Writes iter_0000000 and the trackers. The root appears whole or not at all; an existing root is only touched with Existing::replace, and then the old
// iteration stands until the new one is complete. A root with other iterations is a training run: UserError. So is a source whose own manifest
// (ponte_manifest.json) does not fit its content.
ConversionReport import_checkpoint(const ImportOptions& options);

struct ConvertOptions {
  fs::path megatron_path;  // root or iteration
  fs::path save;           // root to be created
  Container format = Container::torch_dist;
  std::optional<fs::path> hf_model;  // whose configuration: for checkpoints that do not carry their own
  std::optional<DType> torch_dtype;  // of the weights; optimizer state keeps its type
  StagedDirectory::Existing existing = StagedDirectory::Existing::refuse;
  int64_t threads = 0;
};
// One Megatron checkpoint as another: weights, optimizer state of any sharding that Ponte reads (written as `fully_reshardable`, or as Megatron-FSDP's),
// random states, schedule, position and everything kept beside them. With optimizer state in fsdp_dtensor the fp32 main parameters are the weights; back
// in torch_dist the weights get the type of the run again. Publishing as import_checkpoint.
ConversionReport convert_checkpoint(const ConvertOptions& options);

struct ExportOptions {
  fs::path megatron_path;  // root or iteration
  fs::path hf_path;        // folder to be created
  std::optional<fs::path> hf_model;  // configuration and tokenizer from here instead of from the checkpoint
  std::optional<DType> torch_dtype;
  uint64_t max_shard_bytes = 5'000'000'000;
  StagedDirectory::Existing existing = StagedDirectory::Existing::refuse;
  int64_t threads = 0;
};
ConversionReport export_checkpoint(const ExportOptions& options);

struct VerifyOptions {
  fs::path megatron_path;
  std::optional<fs::path> hf_model;  // absent: only the manifest is checked
  int64_t threads = 0;
};
struct VerifyReport {
  ConversionReport compared;
  bool manifest_checked = false;
};
// UserError listing every tensor that differs.
VerifyReport verify_checkpoint(const VerifyOptions& options);

}  // namespace ponte
