#include "model/block.h"

#include <ATen/ops/add.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/errors.h"
#include "nn/recompute.h"

namespace ponte {
namespace {

bool recomputes(const ModelConfig& config, const char* module) {
  const auto& modules = config.recompute_modules;
  return config.recompute_granularity == "selective" && std::find(modules.begin(), modules.end(), module) != modules.end();
}

SelfAttention make_self_attention(const ModelConfig& config, int64_t layer, const std::string& prefix, Parameters& parameters, const LayerSeams& seams) {
  SelfAttention out;
  out.linear_qkv = {&parameters.get(prefix + "linear_qkv.weight"), parameters.get_if_present(prefix + "linear_qkv.bias")};
  out.linear_proj = {&parameters.get(prefix + "linear_proj.weight"), nullptr};
  out.q_layernorm = parameters.get_if_present(prefix + "q_layernorm.weight");
  out.k_layernorm = parameters.get_if_present(prefix + "k_layernorm.weight");
  out.layout = head_layout(*out.linear_qkv.weight, config);
  out.norm = {config.layernorm_epsilon, config.layernorm_zero_centered_gamma ? 1.0 : 0.0};
  if (out.q_layernorm && out.q_layernorm->slice.shape[0] != config.kv_channels) {  // one norm over all heads
    PONTE_ASSERT(out.layout.gate == OutputGate::none && out.q_layernorm->slice.shape[0] == out.layout.heads() * config.kv_channels);
    out.query_norm = {std::exchange(out.q_layernorm, nullptr), out.norm};
    out.key_norm = {std::exchange(out.k_layernorm, nullptr), out.norm};
  }
  out.scale = 1.0 / std::sqrt(static_cast<double>(config.kv_channels));
  if (static_cast<size_t>(layer) < config.layer_types.size() && config.layer_types[static_cast<size_t>(layer)] == "sliding_attention") {
    require(config.window_size.has_value(), "model: layer {} is a sliding_attention layer, but window_size is not set", layer);
    out.window = config.window_size;
  }
  out.region = seams.region;
  out.attend = seams.attention;
  return out;
}

GatedDeltaNet make_gated_delta_net(const ModelConfig& config, const std::string& prefix, Parameters& parameters, const LayerSeams& seams) {
  GatedDeltaNet out;
  out.in_proj = {&parameters.get(prefix + "in_proj.weight"), nullptr};
  out.out_proj = {&parameters.get(prefix + "out_proj.weight"), nullptr};
  out.conv1d = &parameters.get(prefix + "conv1d.weight");
  out.A_log = &parameters.get(prefix + "A_log");
  out.dt_bias = &parameters.get(prefix + "dt_bias");
  out.out_norm = &parameters.get(prefix + "out_norm.weight");
  const int64_t value_heads = out.A_log->slice.shape[0], values_per_key = config.linear_num_value_heads / config.linear_num_key_heads;
  out.layout = {value_heads / values_per_key, value_heads, config.linear_key_head_dim, config.linear_value_head_dim};
  PONTE_ASSERT(out.in_proj.weight->slice.shape[0] == out.layout.width() && out.conv1d->slice.shape[0] == out.layout.channels());
  out.norm = {config.layernorm_epsilon, config.layernorm_zero_centered_gamma ? 1.0 : 0.0};
  out.region = seams.region;
  out.context = seams.attention->context();
  out.spread = config.cp_comm_type == "a2a" ? RowsOver::heads : RowsOver::chunks;
  return out;
}

// The feed-forward part and the norm before it, which is the projection's own in a dense layer and stands alone in a sparse one.
void add_feed_forward(DecoderLayer& out, const ModelConfig& config, int64_t layer, const std::string& prefix, Parameters& parameters, const LayerSeams& seams,
                      const NormOptions& norm) {
  const std::string mlp = prefix + "mlp.";
  if (Parameter* sparse_norm = parameters.get_if_present(prefix + "pre_mlp_layernorm.weight")) {
    out.mlp_norm = {sparse_norm, norm};
    out.mlp = make_moe_mlp(config, layer, mlp, parameters, seams.region, seams.experts);
    return;
  }
  out.mlp_norm = {&parameters.get(mlp + "linear_fc1.layer_norm_weight"), norm};
  out.mlp = GatedMlp{{&parameters.get(mlp + "linear_fc1.weight"), nullptr}, {&parameters.get(mlp + "linear_fc2.weight"), nullptr}, seams.region};
}

}  // namespace

at::Tensor FeedForward::operator()(const at::Tensor& x_SH, RoutingReport* report) const {
  if (const auto* sparse = std::get_if<MoeMlp>(this)) return (*sparse)(x_SH, report);
  return std::get<GatedMlp>(*this)(x_SH);
}

at::Tensor SequenceMixer::project(const at::Tensor& x_SH) const {
  return std::visit([&](const auto& mixer) { return mixer.project(x_SH); }, static_cast<const variant&>(*this));
}
at::Tensor SequenceMixer::core(const at::Tensor& projected_SW, const Sequence& sequence) const {
  return std::visit([&](const auto& mixer) { return mixer.core(projected_SW, sequence); }, static_cast<const variant&>(*this));
}
at::Tensor SequenceMixer::finish(const at::Tensor& core_SV) const {
  return std::visit([&](const auto& mixer) { return mixer.finish(core_SV); }, static_cast<const variant&>(*this));
}

DecoderLayer make_decoder_layer(const ModelConfig& config, int64_t layer, const std::string& prefix, Parameters& parameters, const LayerSeams& seams) {
  const std::string attention = prefix + "self_attention.";
  const NormOptions norm{config.layernorm_epsilon, config.layernorm_zero_centered_gamma ? 1.0 : 0.0};
  DecoderLayer out;
  if (Parameter* linear_norm = parameters.get_if_present(attention + "in_proj.layer_norm_weight")) {
    out.mixer_norm = {linear_norm, norm};
    out.mixer = make_gated_delta_net(config, attention, parameters, seams);
  } else {
    out.mixer_norm = {&parameters.get(attention + "linear_qkv.layer_norm_weight"), norm};
    out.mixer = make_self_attention(config, layer, attention, parameters, seams);
  }
  add_feed_forward(out, config, layer, prefix, parameters, seams, norm);
  out.recompute_core_attention = recomputes(config, "core_attn");
  out.recompute_mlp = recomputes(config, std::holds_alternative<MoeMlp>(out.mlp) ? "moe" : "mlp");
  out.recompute_norms = recomputes(config, "layernorm");
  return out;
}

at::Tensor DecoderLayer::operator()(const at::Tensor& x_SH, const Sequence& sequence) const {
  const auto run = [](bool again, const Block& part, const at::Tensor& x) { return again ? run_with_recompute(part, x) : part(x); };
  const auto norm = [&](const RmsNorm& n, const at::Tensor& x) { return run(recompute_norms, [&n](const at::Tensor& v) { return n(v); }, x); };
  const auto core = [this, sequence](const at::Tensor& projected) { return mixer.core(projected, sequence); };
  const auto feed_forward = [this, routing = sequence.routing](const at::Tensor& v) { return mlp(v, routing.get()); };

  const at::Tensor projected_SW = mixer.project(norm(mixer_norm, x_SH));
  const at::Tensor y_SH = at::add(x_SH, mixer.finish(run(recompute_core_attention, core, projected_SW)));
  return at::add(y_SH, run(recompute_mlp, feed_forward, norm(mlp_norm, y_SH)));
}

}  // namespace ponte
