#include "model/model.h"

#include <ATen/ATen.h>

#include "base/errors.h"
#include "families/registry.h"
#include "model/routing.h"
#include "model/state.h"

namespace ponte {
namespace {

void check_supported(const ModelConfig& c) {
  require(c.experimental_attention_variant.empty() && !c.attention_output_gate, "model: {} attention is not part of this build",
          c.experimental_attention_variant.empty() ? "gated" : c.experimental_attention_variant);
  require(c.mtp_num_layers == 0, "model.mtp_num_layers: {}: multi-token prediction is not part of this build", c.mtp_num_layers);
  require(c.normalization == "RMSNorm", "model.normalization: '{}', wanted RMSNorm", c.normalization);
  require(c.gated_linear_unit && c.activation_func == "silu", "model.activation_func: '{}', wanted silu with gated_linear_unit", c.activation_func);
  require(!c.add_bias_linear, "model.add_bias_linear: biases outside the query/key/value projection are not supported");
  require(c.hidden_dropout == 0 && c.attention_dropout == 0, "model: dropout is {} / {}, wanted 0", c.hidden_dropout, c.attention_dropout);
}

Residual residual_of(const ModelConfig& c) { return c.sequence_parallel ? Residual::token_sharded : Residual::replicated; }

at::Tensor flat(const at::Tensor& t, const at::Device& device) { return t.reshape({-1}).to(device); }

}  // namespace

void check_token_ids(const at::Tensor& ids, int64_t vocabulary) {
  if (!ids.device().is_cpu()) return;
  const at::Tensor flat = ids.contiguous();
  for (const int64_t id : std::span(flat.const_data_ptr<int64_t>(), static_cast<size_t>(flat.numel())))
    require(id >= 0 && id < vocabulary, "token id {}: outside the model's vocabulary of {}", id, vocabulary);
}

Model::State::State(const ModelConfig& c, const Groups& g, const ModelOptions& o)
    : config(c),
      groups(g),
      options(o),
      tensor_parallel{g.tensor->rank(), g.tensor->size(), c.sequence_parallel},
      rules(std::make_unique<RuleTable>(rule_table(c))),
      parameters(std::make_unique<Parameters>(*rules, tensor_parallel, at::TensorOptions(o.device).dtype(o.dtype))),
      rotary(c) {
  check_supported(c);
  require(c.num_moe_experts == 0 || (g.tensor->size() == 1 && g.expert->size() == 1), "model: experts over more than one rank are not part of this build");
  const TensorRegion region{g.tensor, residual_of(c)};
  const NormOptions norm{c.layernorm_epsilon, c.layernorm_zero_centered_gamma ? 1.0 : 0.0};
  embedding = {&parameters->get("embedding.word_embeddings.weight"), region};
  for (int64_t i = 0; i < c.num_layers; ++i)
    decoder.layers.push_back(make_decoder_layer(c, i, format("decoder.layers.{}.", i), *parameters, region));
  if (c.num_moe_experts > 0) loads.resize(static_cast<size_t>(c.num_layers));
  decoder.recomputed_stretches = recomputed_stretches(c, c.num_layers);
  final_norm = {&parameters->get("decoder.final_layernorm.weight"), norm};
  loss_head = {c.share_embeddings_and_output_weights ? embedding.weight : &parameters->get("output_layer.weight"), region};
  parameters->check_complete();
  for (Parameter& p : parameters->all()) in_order.push_back(&p);
}

Sequence Model::State::sequence_of(const Batch& batch) const {
  PONTE_ASSERT(batch.tokens_BT.dim() == 2 && batch.tokens_BT.scalar_type() == at::kLong);
  const int64_t B = batch.tokens_BT.size(0), T = batch.tokens_BT.size(1);
  const at::Tensor positions = batch.position_ids_BT.defined() ? batch.position_ids_BT : at::arange(T, at::kLong).unsqueeze(0).expand({B, T});
  return {B, T, rotary(flat(positions, options.device)), batch.document_starts_BT};
}

at::Tensor Model::State::hidden(const Batch& batch, std::shared_ptr<RoutingReport> routing) const {
  check_token_ids(batch.tokens_BT, config.vocab_size);
  Sequence sequence = sequence_of(batch);
  sequence.routing = std::move(routing);
  if (config.sequence_parallel)
    require(sequence.B * sequence.T % groups.tensor->size() == 0, "sequence_parallel: {} tokens of a micro-batch do not divide over {} tensor-parallel ranks",
            sequence.B * sequence.T, groups.tensor->size());
  return final_norm(decoder(embedding(flat(batch.tokens_BT, options.device)), sequence));
}

Model::Model(const ModelConfig& config, const Groups& groups, const ModelOptions& options) : state_(std::make_unique<State>(config, groups, options)) {}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;

const ModelConfig& Model::config() const { return state_->config; }
const ModelOptions& Model::options() const { return state_->options; }
const Groups& Model::groups() const { return state_->groups; }
const RuleTable& Model::rules() const { return *state_->rules; }
std::span<Parameter* const> Model::parameters() { return state_->in_order; }

Parameter* Model::find_parameter(const std::string& name) {
  for (Parameter* p : state_->in_order)
    if (p->name == name) return p;
  return nullptr;
}

LossSum Model::forward_loss(const Batch& batch, double gradient_scale) {
  const at::Device device = state_->options.device;
  const auto wide = state_->options.dtype == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor mask_S = batch.loss_mask_BT.defined() ? flat(batch.loss_mask_BT, device).to(wide) : at::ones({batch.tokens_BT.numel()}, at::TensorOptions(device).dtype(wide));
  const double valid_tokens = mask_S.sum().item<double>();
  const std::shared_ptr<RoutingReport> routing = state_->routing_report(batch, gradient_scale * valid_tokens);
  const at::Tensor hidden_SH = state_->hidden(batch, routing);
  if (routing && at::GradMode::is_enabled()) add_loads(state_->loads, routing->loads);
  check_token_ids(batch.labels_BT.reshape({-1}).cpu().masked_select(mask_S.cpu() != 0), state_->config.vocab_size);
  const TokenLosses losses = state_->loss_head(hidden_SH, flat(batch.labels_BT, device), mask_S * gradient_scale);
  return {(losses.losses_S * mask_S).sum(), losses.scaled, valid_tokens, losses.losses_S.view(batch.labels_BT.sizes())};
}

at::Tensor Model::logits(const Batch& batch) {
  at::NoGradGuard off;
  return state_->loss_head.logits(state_->hidden(batch)).view({batch.tokens_BT.size(0), batch.tokens_BT.size(1), -1});
}

void Model::zero_gradients() {
  state_->loads.assign(state_->loads.size(), ExpertLoad());
  for (Parameter* p : state_->in_order) {
    if (!p->value.requires_grad()) continue;
    if (p->main_grad.defined()) p->main_grad.zero_();
    else p->main_grad = at::zeros(p->value.sizes(), p->value.options().dtype(p->value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).requires_grad(false));
  }
}

int64_t Model::parameter_count() const {
  int64_t total = 0;
  for (const Rule& rule : state_->rules->rules) {
    int64_t elements = 1;
    for (const int64_t extent : rule.shape) elements *= extent;
    total += elements;
  }
  return total;
}

double Model::training_flops_per_token(int64_t seq_length) const {
  const ModelConfig& c = state_->config;
  double matrix_weights = static_cast<double>(c.vocab_size * c.hidden_size);  // the output layer; looking a row up costs nothing
  for (const Rule& rule : state_->rules->rules)
    if (rule.shape.size() == 2 && !rule.stack.empty()) {
      const double share = rule.expert >= 0 ? static_cast<double>(c.moe_router_topk) / static_cast<double>(c.num_moe_experts) : 1.0;  // of tokens that use it
      matrix_weights += share * static_cast<double>(rule.shape[0] * rule.shape[1]);
    }
  // Scores and their product with the values: 2 x 2 x keys x width, half of the keys masked, three times that with backward.
  const double attention = 6.0 * static_cast<double>(c.num_layers * seq_length * c.num_attention_heads * c.kv_channels);
  return 6.0 * matrix_weights + attention;
}

}  // namespace ponte
