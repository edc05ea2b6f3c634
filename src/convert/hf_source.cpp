// An HF folder as the source of live parameters, through the rules of its family.
#include <algorithm>
#include <set>

#include "base/errors.h"
#include "convert/accounting.h"
#include "convert/segment_source.h"
#include "families/registry.h"

namespace ponte {

bool is_hf_checkpoint(const fs::path& path) {
  if (!fs::is_directory(path) || !fs::exists(path / "config.json")) return false;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name == kSafetensorsIndex) return true;
  }
  return false;
}

HfSource::HfSource(const fs::path& directory) : checkpoint_(directory) {
  config_ = model_config_from_hf(directory / "config.json");
  HfTensors present;
  for (const HfTensor& tensor : checkpoint_.tensors()) {
    present.emplace(tensor.name, tensor.shape);
    buffers_.push_back({tensor.name, tensor.dtype, tensor.bytes});
  }
  read_presence(present, config_);
  table_ = rule_table(config_, present);
  index_rules();
  bind();
  check_aliases();
}

void HfSource::bind() {
  Accounting accounting(checkpoint_.directory().string());
  std::set<std::string_view> used;
  for (const Alias& alias : table_.aliases) used.insert(alias.hf_name);
  for (const Rule& rule : table_.rules) {
    std::vector<int64_t> buffers;
    for (const Source& source : rule.sources) {
      const HfTensor* tensor = checkpoint_.find(source.name);
      used.insert(source.name);
      if (!tensor) accounting.missing(source.name);
      else if (tensor->shape != source.shape) accounting.mismatch(source.name, tensor->shape, source.shape);
      else buffers.push_back(tensor - checkpoint_.tensors().data());
      if (!buffers.empty() && buffers_[buffers.back()].dtype != buffers_[buffers[0]].dtype)
        accounting.problem(format("{} is {} and {} is {}; they share one Megatron parameter", buffers_[buffers[0]].name,
                                  torch_name(buffers_[buffers[0]].dtype), source.name, torch_name(buffers_[buffers.back()].dtype)));
    }
    rule_dtypes_.push_back(buffers.empty() ? DType::f32 : buffers_[buffers[0]].dtype);
    buffer_of_.push_back(std::move(buffers));
  }
  for (const HfTensor& tensor : checkpoint_.tensors())
    if (!used.contains(tensor.name)) accounting.unexpected(tensor.name);
  accounting.settle();
}

void HfSource::check_aliases() {
  for (const Alias& alias : table_.aliases) {
    const HfTensor* copy = checkpoint_.find(alias.hf_name);
    if (!copy) continue;
    const HfTensor& original = checkpoint_.at(alias.same_as);
    require(copy->dtype == original.dtype && copy->shape == original.shape && std::ranges::equal(copy->bytes, original.bytes),
            "{}: {} differs from {}, but config.json ties them (tie_word_embeddings); set it to false to keep both", checkpoint_.directory(), alias.hf_name,
            alias.same_as);
    dropped_.push_back(format("{}: equal to {} (tied)", alias.hf_name, alias.same_as));
  }
}

void HfSource::append_feeds(size_t rule, size_t segment, const Window& to, std::vector<Copy>& out) const {
  const size_t first = out.size();
  for (const Box& box : table_.rules[rule].segments[segment].boxes) append_copies(box, to, out);
  for (size_t i = first; i < out.size(); ++i) out[i].source = buffer_of_[rule][out[i].source];
}

}  // namespace ponte
