// One Megatron checkpoint as another: which tensors stand for which, and what is carried beside them.
#include <chrono>
#include <deque>

#include "base/errors.h"
#include "convert/checkpoint_target.h"
#include "convert/convert.h"
#include "convert/exact_values.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/native_writer.h"
#include "convert/training_state.h"
#include "families/registry.h"
#include "format/torch_zip.h"

namespace ponte {
namespace {

constexpr const char* kKinds[] = {"param", "exp_avg", "exp_avg_sq"};

struct Contents {
  std::deque<StateSource> states;
  std::vector<NativeContent> list;
  std::vector<std::string> dropped;
};

bool has_state(const NativeSource& source, const char* kind) {
  return source.has_state(format("optimizer.state.{}.", kind), source.rules().rules.front());
}

// Megatron-FSDP keeps no weights beside the main parameters. They must be what the main parameters round to, or more than a name would be lost.
void append_rounding_differences(const NativeSource& weights, const StateSource& main, int64_t threads, std::vector<std::string>& dropped) {
  std::vector<Target> rounded, stored;
  const auto& rules = weights.rules().rules;
  for (size_t r = 0; r < rules.size(); ++r)
    for (size_t s = 0; s < rules[r].segments.size(); ++s) {
      const Shape& shape = rules[r].segments[s].shape;
      const Window whole = dense_window(Shape(shape.size(), 0), shape);
      for (auto [source, targets] : {std::pair<const SegmentSource*, std::vector<Target>*>{&main, &rounded}, {&weights, &stored}}) {
        targets->push_back({rules[r].name(), weights.dtype(rules[r]), whole.elements(), {}});
        source->append_feeds(r, s, whole, targets->back().copies);
      }
    }
  const auto left = run_transfer(main.buffers(), rounded, [](size_t, uint64_t, std::span<const std::byte>, auto*) {}, {threads, "compare"});
  const auto right = run_transfer(weights.buffers(), stored, [](size_t, uint64_t, std::span<const std::byte>, auto*) {}, {threads, "compare"});
  for (size_t i = 0; i < left.size(); ++i)
    if (left[i] != right[i])
      dropped.push_back(format("{}: the weights are not their rounded main parameters, which are what fsdp_dtensor keeps", rounded[i].name));
}

// What is written: the weights, or in fsdp_dtensor the main parameters in their place; the optimizer's moments.
void choose_contents(const NativeSource& source, const ConvertOptions& options, Contents& out) {
  const bool to_fsdp = options.format == Container::fsdp_dtensor, with_optimizer = has_state(source, "exp_avg");
  const bool from_fsdp = source.dialect().container == Container::fsdp_dtensor;
  const bool main = with_optimizer && has_state(source, "param");
  require(!with_optimizer || main, "{}: an optimizer's moments without its main parameters", source.iteration_directory());
  std::optional<DType> weights = options.torch_dtype;
  if (from_fsdp && !to_fsdp && with_optimizer && !weights) weights = source.config().params_dtype;
  require(!to_fsdp || !main || !options.torch_dtype, "--torch-dtype: with optimizer state, the weights of fsdp_dtensor are its fp32 main parameters");
  if (!to_fsdp || !main) out.list.push_back({source, "", weights});
  for (const char* kind : kKinds) {
    if (!with_optimizer) break;
    out.states.emplace_back(source, kind);
    out.list.push_back({out.states.back(), kind, std::nullopt});
  }
  if (to_fsdp && main && !from_fsdp) append_rounding_differences(source, out.states.front(), options.threads, out.dropped);
}

// State of a run that has no place in what is written, or that lies in an order which is read for weights alone.
void append_unread(const NativeSource& source, std::vector<std::string>& dropped) {
  if (source.dialect().packing != Packing::megatron)
    for (const TorchDistTensor& tensor : source.reader().tensors())
      if (tensor.name.starts_with("optimizer.")) dropped.push_back(format("{}: an optimizer's state in mcore-bridge's order", tensor.name));
  for (const std::string& name : source.reader().objects())
    if (name.starts_with("rerun_state")) dropped.push_back(format("{}: which step a run was repeating", name));
}

void copy_files(const fs::path& from, const fs::path& to, const ConvertOptions& options) {
  if (fs::exists(from / "train_state.pt")) write_file_atomically(to / "train_state.pt", read_file(from / "train_state.pt"));
  if (fs::exists(from / "run_config.yaml")) {
    std::string text = read_file(from / "run_config.yaml");
    const size_t at = text.find("\n  ckpt_format: ");
    if (at != std::string::npos) {
      const size_t begin = at + 16, end = text.find('\n', begin);
      text.replace(begin, end - begin, options.format == Container::torch_dist ? "torch_dist" : "fsdp_dtensor");
    }
    write_file_atomically(to / "run_config.yaml", text);
  }
  fs::create_directories(to / kKeptFolder);
  for (const char* folder : {"tokenizer", kKeptFolder}) {
    if (!fs::is_directory(from / folder)) continue;
    fs::create_directories(to / folder);
    for (const auto& entry : fs::directory_iterator(from / folder))
      if (entry.is_regular_file() && entry.path().filename() != kNativeManifest)
        fs::copy_file(entry.path(), to / folder / entry.path().filename(), fs::copy_options::overwrite_existing);
  }
}

Manifest write_iteration(const NativeSource& source, const fs::path& directory, const ConvertOptions& options) {
  const bool torch_dist = options.format == Container::torch_dist;
  Contents contents;
  choose_contents(source, options, contents);
  const std::optional<Value> found = training_state(source.reader());
  const Value state = found ? *found : common_state_of_import(source.config());
  const std::vector<RandomState> random = random_states(source.reader());
  const bool decay_qk_norms = run_config_flag(source.iteration_directory(), "optimizer", "apply_wd_to_qk_layernorm");
  const NativeExtras extras = torch_dist ? torch_dist_extras(random) : fsdp_extras(source.rules(), state, random, {decay_qk_norms});
  const Dialect dialect = torch_dist ? dialect_of(source.rules()) : Dialect{Container::fsdp_dtensor, LayerKeys::numbered};
  Manifest manifest = write_native_tensors(contents.list, extras, directory, {dialect, options.threads, "convert"});
  manifest.dropped = contents.dropped;
  append_unread(source, manifest.dropped);
  copy_files(source.iteration_directory(), directory, options);
  if (options.hf_model && !fs::exists(directory / kKeptFolder / "config.json")) keep_hf_files(*options.hf_model, directory);
  keep_exact_values(source, options.torch_dtype, directory);
  if (torch_dist) {
    save_torch_file(directory / "common.pt", common_state_of(source.config(), state));
    write_file_atomically(directory / "metadata.json", metadata_json());
  }
  write_native_manifest(directory, manifest);
  return manifest;
}

}  // namespace

ConversionReport convert_checkpoint(const ConvertOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const fs::path from = iteration_directory(options.megatron_path);
  const std::string name = fs::weakly_canonical(from).filename().string();
  const bool numbered = name.starts_with("iter_") && name.size() > 5 && name.size() < 20 && name.find_first_not_of("0123456789", 5) == std::string::npos;
  require(numbered || name == "release", "{}: a folder called iter_<number> was expected", from);
  CheckpointTarget target(options.save, name, options.existing, "a conversion");
  require(!fs::exists(options.save / name) || !fs::equivalent(options.save / name, from), "{} is the checkpoint itself; give another path", options.save);
  std::optional<ModelConfig> given;
  if (options.hf_model) given = model_config_from_hf(*options.hf_model / "config.json");
  const NativeSource source(from, given ? &*given : nullptr);
  const std::string tracked = numbered ? std::to_string(std::stoll(name.substr(5))) : name;
  Manifest manifest;
  target.publish([&](const fs::path& folder) { manifest = write_iteration(source, folder, options); },
                 [&](const fs::path& root) {
                   if (fs::exists(from / "train_state.pt")) write_file_atomically(root / "latest_train_state.pt", read_file(from / "train_state.pt"));
                   write_file_atomically(root / "latest_checkpointed_iteration.txt", tracked);
                 });
  ConversionReport report;
  report.architecture = manifest.architecture;
  report.tensors = static_cast<int64_t>(manifest.tensors.size());
  for (const auto& [key, tensor] : manifest.tensors) report.bytes += static_cast<uint64_t>(tensor_bytes({key, tensor.dtype, tensor.shape}));
  report.casts = manifest.casts;
  report.dropped = manifest.dropped;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace ponte
