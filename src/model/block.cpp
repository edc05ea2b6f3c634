#include "model/block.h"

#include <ATen/ops/add.h>

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "nn/recompute.h"

namespace ponte {
namespace {

bool recomputes(const ModelConfig& config, const char* module) {
  const auto& modules = config.recompute_modules;
  return config.recompute_granularity == "selective" && std::find(modules.begin(), modules.end(), module) != modules.end();
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

DecoderLayer make_decoder_layer(const ModelConfig& config, int64_t layer, const std::string& prefix, Parameters& parameters, const LayerSeams& seams) {
  const std::string attention = prefix + "self_attention.";
  const NormOptions norm{config.layernorm_epsilon, config.layernorm_zero_centered_gamma ? 1.0 : 0.0};
  DecoderLayer out;
  out.attention_norm = {&parameters.get(attention + "linear_qkv.layer_norm_weight"), norm};
  SelfAttention& a = out.attention;
  a.linear_qkv = {&parameters.get(attention + "linear_qkv.weight"), parameters.get_if_present(attention + "linear_qkv.bias")};
  a.linear_proj = {&parameters.get(attention + "linear_proj.weight"), nullptr};
  a.q_layernorm = parameters.get_if_present(attention + "q_layernorm.weight");
  a.k_layernorm = parameters.get_if_present(attention + "k_layernorm.weight");
  a.layout = head_layout(*a.linear_qkv.weight, config);
  a.norm = norm;
  a.scale = 1.0 / std::sqrt(static_cast<double>(config.kv_channels));
  if (!config.layer_types.empty() && config.layer_types.at(layer) == "sliding_attention") {
    require(config.window_size.has_value(), "model: layer {} is a sliding_attention layer, but window_size is not set", layer);
    a.window = config.window_size;
  }
  a.region = seams.region;
  a.attend = seams.attention;
  add_feed_forward(out, config, layer, prefix, parameters, seams, norm);
  out.recompute_core_attention = recomputes(config, "core_attn");
  out.recompute_mlp = recomputes(config, std::holds_alternative<MoeMlp>(out.mlp) ? "moe" : "mlp");
  out.recompute_norms = recomputes(config, "layernorm");
  return out;
}

at::Tensor DecoderLayer::operator()(const at::Tensor& x_SH, const Sequence& sequence) const {
  const auto run = [](bool again, const Block& part, const at::Tensor& x) { return again ? run_with_recompute(part, x) : part(x); };
  const auto norm = [&](const RmsNorm& n, const at::Tensor& x) { return run(recompute_norms, [&n](const at::Tensor& v) { return n(v); }, x); };
  const auto core = [this, sequence](const at::Tensor& qkv) { return attention.core(qkv, sequence); };
  const auto feed_forward = [this, routing = sequence.routing](const at::Tensor& v) { return mlp(v, routing.get()); };

  const TensorRegion& region = attention.region;
  const at::Tensor qkv_SW = attention.linear_qkv(region.enter(norm(attention_norm, x_SH)));
  const at::Tensor y_SH = at::add(x_SH, region.leave(attention.linear_proj(run(recompute_core_attention, core, qkv_SW))));
  return at::add(y_SH, run(recompute_mlp, feed_forward, norm(mlp_norm, y_SH)));
}

}  // namespace ponte
