// What is in a checkpoint of any format: its tensors, and which HF slice feeds which Megatron parameter.
#pragma once
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"

namespace ponte {

struct InspectedTensor {
  std::string name, dtype;  // "BF16"
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  std::string file;   // the first that holds a part of it
  int64_t chunks = 1;
};

struct Inspection {
  std::string format;  // "safetensors", "huggingface", "torch_dist", "fsdp_dtensor", "torch.save"
  fs::path path;       // what was looked into: the file, the folder, the iteration
  std::vector<InspectedTensor> tensors;
  std::vector<std::string> objects;  // of torch_dist: their keys; of torch.save: what is no tensor, "args.num_layers = 4"
  uint64_t bytes = 0;
};

// A safetensors file, a torch.save archive (common.pt, pytorch_model.bin), an HF folder, or a Megatron checkpoint (root or iteration).
Inspection inspect_checkpoint(const fs::path& path);
std::string inspection_text(const Inspection& inspection);
Json inspection_json(const Inspection& inspection);

// The rule table of the model at `path`, as applied to it. Text: a parameter with its stored key, then one line for every piece of HF tensor in it.
std::string map_text(const fs::path& path);
Json map_json(const fs::path& path);

}  // namespace ponte
