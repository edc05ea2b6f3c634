#include "model/mtp.h"

#include <ATen/ATen.h>

#include "base/format.h"
#include "kernels/device.h"
#include "model/state.h"
#include "nn/recompute.h"

namespace ponte {
namespace {

// Each rank's columns in their place, the rest zeros: leaving the region sums them to the whole.
at::Tensor in_place(const at::Tensor& y_SO, const TensorRegion& region) {
  const int64_t ranks = region.group->size(), rank = region.group->rank(), columns = y_SO.size(1);
  return ranks == 1 ? y_SO : at::constant_pad_nd(y_SO, {rank * columns, (ranks - 1 - rank) * columns});
}

}  // namespace

at::Tensor PredictionLayer::merge(const at::Tensor& embedded_SH, const at::Tensor& hidden_SH) const {
  const at::Tensor both = at::cat({embedding_norm(embedded_SH), hidden_norm(hidden_SH)}, -1);
  return region.leave(in_place(eh_proj(region.enter(both)), region));
}

at::Tensor PredictionLayer::operator()(const at::Tensor& embedded_SH, const at::Tensor& hidden_SH, const Sequence& sequence) const {
  const Block run = [this, sequence](const at::Tensor& x) { return layer(x, sequence); };
  const auto all = [&](const at::Tensor& embedded, const at::Tensor& hidden) {
    const at::Tensor x_SH = merge(embedded, hidden);
    return final_norm(recompute ? run_with_recompute(run, x_SH) : run(x_SH));
  };
  return run_in_unit(*unit, all, embedded_SH, hidden_SH);
}

std::vector<PredictionLayer> make_prediction_layers(const ModelConfig& config, Parameters& parameters, const LayerSeams& seams) {
  const NormOptions norm{config.layernorm_epsilon, config.layernorm_zero_centered_gamma ? 1.0 : 0.0};
  std::vector<PredictionLayer> out;
  for (int64_t k = 0; k < config.mtp_num_layers; ++k) {
    const std::string prefix = format("mtp.layers.{}.", k);
    PredictionLayer& layer = out.emplace_back();
    layer.embedding_norm = {&parameters.get(prefix + "enorm.weight"), norm};
    layer.hidden_norm = {&parameters.get(prefix + "hnorm.weight"), norm};
    layer.eh_proj = {&parameters.get(prefix + "eh_proj.weight"), nullptr};
    layer.layer = make_decoder_layer(config, config.num_layers + k, prefix + "mtp_model_layer.", parameters, seams);
    layer.final_norm = {&parameters.get(prefix + "final_layernorm.weight"), norm};
    layer.region = seams.region;
    layer.recompute = config.recompute_granularity == "full";
  }
  return out;
}

Batch shifted(const Batch& batch, int64_t depth) {
  const int64_t T = batch.tokens_BT.size(1), kept = std::max<int64_t>(T - depth, 0);
  const auto shift = [&](const at::Tensor& t) { return at::constant_pad_nd(t.slice(1, T - kept), {0, T - kept}, 0); };
  Batch out = batch;
  out.tokens_BT = shift(batch.tokens_BT);
  out.labels_BT = shift(batch.labels_BT);
  out.loss_mask_BT = shift(batch.loss_mask_BT.defined() ? batch.loss_mask_BT : at::ones(batch.tokens_BT.sizes(), batch.tokens_BT.options().dtype(at::kFloat)));
  if (!batch.document_starts_BT.defined()) return out;
  const at::Tensor same = shift(batch.document_starts_BT + 1) == batch.document_starts_BT + 1;  // no document has the number 0 that is shifted in
  out.tokens_BT = out.tokens_BT * same;
  out.labels_BT = out.labels_BT * same;
  out.loss_mask_BT = out.loss_mask_BT * same;
  return out;
}

at::Tensor Model::State::add_prediction_losses(const Batch& batch, at::Tensor hidden_SH, std::shared_ptr<RoutingReport> routing, double gradient_scale,
                                               at::Tensor objective) {
  const auto wide = options.dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto flat = [&](const at::Tensor& t) { return t.reshape({-1}).to(options.device, /*non_blocking=*/true); };
  Sequence sequence = sequence_of(own_tokens(batch));
  sequence.routing = std::move(routing);
  const double share = config.mtp_loss_scaling_factor / static_cast<double>(prediction.size());
  for (size_t k = 0; k < prediction.size(); ++k) {
    const Batch own = own_tokens(shifted(batch, static_cast<int64_t>(k) + 1));
    hidden_SH = prediction[k](embedded(flat(own.tokens_BT)), hidden_SH, sequence);
    const at::Tensor mask_S = flat(own.loss_mask_BT).to(wide);
    const TokenLosses losses = lost(hidden_SH, flat(own.labels_BT), mask_S * (gradient_scale * share));
    objective = at::add(objective, losses.scaled);
    const at::Tensor sum = (losses.losses_S * mask_S).sum().to(at::kDouble);
    unread_prediction_sums[k] = unread_prediction_sums[k].defined() ? unread_prediction_sums[k] + sum : sum;
    prediction_losses[k].tokens += own.loss_mask_BT.to(wide).sum().item<double>();
  }
  return objective;
}

std::span<const PredictionLoss> Model::prediction_losses() const {
  state_->read_prediction_sums();
  return state_->prediction_losses;
}

void Model::State::read_prediction_sums() {
  for (size_t k = 0; k < unread_prediction_sums.size(); ++k) {
    if (!unread_prediction_sums[k].defined()) continue;
    prediction_losses[k].sum += in_host_memory(unread_prediction_sums[k]).item<double>();
    unread_prediction_sums[k] = at::Tensor();
  }
}

void Model::State::reduce_prediction_losses() {
  read_prediction_sums();
  Group& others = *groups.data_context;
  if (others.size() == 1) return;
  for (PredictionLoss& loss : prediction_losses) {
    at::Tensor sums = at::tensor({loss.sum, loss.tokens}, at::kDouble);
    others.all_reduce(sums, ReduceOp::sum);
    loss = {sums[0].item<double>(), sums[1].item<double>()};
  }
}

}  // namespace ponte
