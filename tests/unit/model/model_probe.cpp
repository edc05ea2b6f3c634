// model_probe HF_FOLDER INPUT OUT_FOLDER [key=value ...]: runs a model on the tokens of INPUT (little-endian int64: B, T, then tokens B*T, labels
// B*T, then float32 loss mask B*T) and writes OUT_FOLDER/logits.f32, loss.f64 (sum, valid tokens) and the gradients of loss / valid tokens as an HF
// checkpoint in OUT_FOLDER/gradients. Keys: dtype=fp32|bf16|fp16|fp64, recompute=uniform:2|block:2|core_attn, generate=N (greedy, writes tokens.i64),
// padding=masked (tokens without loss are padding), model.KEY=VALUE as in configurations.
#include <ATen/ATen.h>

#include <cstring>
#include <iostream>
#include <map>

#include "base/dtype.h"
#include "base/errors.h"
#include "base/file.h"
#include "config/document.h"
#include "convert/weight_sink.h"
#include "convert/weight_source.h"
#include "families/rule.h"
#include "model/kv_cache.h"
#include "model/model.h"

namespace ponte {
namespace {

using Keys = std::map<std::string, std::string>;

Batch read_batch(const fs::path& file) {
  const std::string bytes = read_file(file);
  int64_t size[2];
  std::memcpy(size, bytes.data(), sizeof size);
  const int64_t n = size[0] * size[1];
  require(bytes.size() == static_cast<size_t>(16 + 20 * n), "{}: {} bytes, wanted {}", file, bytes.size(), 16 + 20 * n);
  Batch batch;
  const auto take = [&](int64_t offset, at::ScalarType type) {
    at::Tensor t = at::empty({size[0], size[1]}, type);
    std::memcpy(t.mutable_data_ptr(), bytes.data() + offset, t.nbytes());
    return t;
  };
  batch.tokens_BT = take(16, at::kLong);
  batch.labels_BT = take(16 + 8 * n, at::kLong);
  batch.loss_mask_BT = take(16 + 16 * n, at::kFloat);
  return batch;
}

void write_tensor(const fs::path& file, const at::Tensor& t) {
  const at::Tensor c = t.contiguous();
  write_file_atomically(file, {static_cast<const char*>(c.const_data_ptr()), static_cast<size_t>(c.nbytes())});
}

void apply_recompute(ModelConfig& config, const std::string& how) {
  if (how.empty()) return;
  const size_t colon = how.find(':');
  config.recompute_granularity = colon == std::string::npos ? "selective" : "full";
  if (colon == std::string::npos) config.recompute_modules = {how};
  else config.recompute_method = how.substr(0, colon), config.recompute_num_layers = std::stoll(how.substr(colon + 1));
}

ModelConfig with_settings(const ModelConfig& config, const Keys& keys) {
  ConfigDraft draft;
  draft.config.model = config;
  for (const auto& [key, value] : keys)
    if (key.starts_with("model.")) apply_override(draft, key + "=" + value, "command line");
  return draft.config.model;
}

void write_gradients(Model& model, const fs::path& folder) {
  RuleTable rules = model.rules();
  for (Rule& rule : rules.rules) rule.arithmetic = Arithmetic::copy;  // a gradient has no offset
  std::vector<LiveShard> shards;
  std::vector<at::Tensor> kept;
  for (Parameter* p : model.parameters()) {
    // An expert bias has none.
    kept.push_back(p->main_grad.defined() ? p->main_grad.to(at::kFloat).contiguous() : at::zeros(p->value.sizes(), at::kFloat));
    const at::Tensor g = kept.back();
    shards.push_back(
        {"", &rules.find(p->name), p->slice, DType::f32, [g] { return std::span(static_cast<const std::byte*>(g.const_data_ptr()), g.nbytes()); }});
  }
  fs::create_directories(folder);
  save_hf(folder, model.config(), rules, shards, int64_t{5} << 30);
}

void greedy(Model& model, const Batch& batch, int64_t count, const fs::path& file) {
  const int64_t B = batch.tokens_BT.size(0);
  KvCache cache(model, B, batch.tokens_BT.size(1) + count);
  at::Tensor next = model.forward(batch.tokens_BT, cache).argmax(-1, true);
  std::vector<at::Tensor> tokens = {next};
  for (int64_t i = 1; i < count; ++i) tokens.push_back(next = model.forward(next, cache).argmax(-1, true));
  write_tensor(file, at::cat(tokens, 1));
}

int run(const fs::path& hf, const fs::path& input, const fs::path& out, Keys keys) {
  const auto source = WeightSource::open(hf);
  ModelConfig config = with_settings(source->config(), keys);
  apply_recompute(config, keys["recompute"]);
  ModelOptions options;
  options.dtype = keys["dtype"] == "bf16" ? at::kBFloat16 : keys["dtype"] == "fp16" ? at::kHalf : keys["dtype"] == "fp64" ? at::kDouble : at::kFloat;
  Model model(config, single_groups(), options);
  model.load(*source);
  Batch batch = read_batch(input);
  if (keys["padding"] == "masked") batch.padding_BT = batch.loss_mask_BT == 0;
  fs::create_directories(out);
  if (!keys["generate"].empty()) return greedy(model, batch, std::stoll(keys["generate"]), out / "tokens.i64"), 0;
  write_tensor(out / "logits.f32", model.logits(batch).to(at::kFloat));
  model.zero_gradients();
  const double valid = batch.loss_mask_BT.sum().item<double>();
  const LossSum loss = model.forward_loss(batch, 1.0 / valid);
  loss.scaled.backward();
  write_tensor(out / "loss.f64", at::tensor({loss.sum.item<double>(), loss.valid_tokens}, at::kDouble));
  write_gradients(model, out / "gradients");
  return 0;
}

}  // namespace
}  // namespace ponte

int main(int count, char** arguments) try {
  ponte::Keys keys;
  for (int i = 4; i < count; ++i) {
    const std::string text = arguments[i];
    keys[text.substr(0, text.find('='))] = text.substr(text.find('=') + 1);
  }
  ponte::require(count >= 4, "model_probe HF_FOLDER INPUT OUT_FOLDER [key=value ...]");
  return ponte::run(arguments[1], arguments[2], arguments[3], keys);
} catch (const std::exception& error) {
  std::cerr << "model_probe: " << error.what() << "\n";
  return 1;
}
