#include "model/model.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <map>

#include "base/errors.h"
#include "families/registry.h"
#include "layout/context_split.h"
#include "layout/flops.h"
#include "layout/memory_activations.h"
#include "model/routing.h"
#include "model/state.h"

namespace ponte {
namespace {

void check_supported(const ModelConfig& c, const Group& tensor) {
  require(c.experimental_attention_variant.empty() || c.experimental_attention_variant == "gated_delta_net",
          "model.experimental_attention_variant: '{}', wanted gated_delta_net", c.experimental_attention_variant);
  require(c.model_type != "olmoe" || tensor.size() == 1, "model: norms over all heads of queries and keys (OLMoE) are not spread over {} tensor-parallel ranks",
          tensor.size());
  require(c.normalization == "RMSNorm", "model.normalization: '{}', wanted RMSNorm", c.normalization);
  require(c.gated_linear_unit && c.activation_func == "silu", "model.activation_func: '{}', wanted silu with gated_linear_unit", c.activation_func);
  require(!c.add_bias_linear, "model.add_bias_linear: biases outside the query/key/value projection are not supported");
  require(c.hidden_dropout == 0 && c.attention_dropout == 0, "model: dropout is {} / {}, wanted 0", c.hidden_dropout, c.attention_dropout);
}

Residual residual_of(const ModelConfig& c) { return c.sequence_parallel ? Residual::token_sharded : Residual::replicated; }

ModelConfig unsplit(ModelConfig c) {
  c.pipeline_model_parallel_size = 1;
  c.virtual_pipeline_model_parallel_size = c.num_layers_in_first_pipeline_stage = c.num_layers_in_last_pipeline_stage = 0;
  c.account_for_embedding_in_pipeline_split = c.account_for_loss_in_pipeline_split = false;
  c.pipeline_model_parallel_layout.clear();
  return c;
}

// Parameters this rank does not hold: other stages', other ranks' experts.
bool is_elsewhere(const Rule& rule, const Stage& stage, const ModelConfig& c, const ExpertGroups& experts) {
  if (rule.stack == "decoder.layers" && (rule.layer < stage.first_layer || rule.layer >= stage.first_layer + stage.layers)) return true;
  if (rule.stack == "mtp.layers" && stage.prediction_layers == 0) return true;
  if (rule.expert >= 0) {
    const ExpertRange own = local_experts(rule.expert_count, experts);
    return rule.expert < own.first || rule.expert >= own.first + own.count;
  }
  if (!rule.stack.empty()) return false;
  return rule.leaf == "embedding.word_embeddings.weight" ? !stage.embedding : !stage.loss;
}

void zero_gradient(Parameter& p) {
  if (!p.value.requires_grad()) return;
  if (p.main_grad.defined()) {
    p.main_grad.zero_();
    return;
  }
  p.main_grad = at::zeros(p.value.sizes(), p.value.options().dtype(p.value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).requires_grad(false));
  p.kept_gradient = {{0, p.main_grad.size(0)}, p.main_grad};
}

at::Tensor flat(const at::Tensor& t, const at::Device& device) { return t.reshape({-1}).to(device, /*non_blocking=*/true); }

}  // namespace

void check_token_ids(const at::Tensor& ids, int64_t vocabulary) {
  if (!ids.device().is_cpu()) return;
  const at::Tensor flat = ids.contiguous();
  for (const int64_t id : std::span(flat.const_data_ptr<int64_t>(), static_cast<size_t>(flat.numel())))
    require(id >= 0 && id < vocabulary, "token id {}: outside the model's vocabulary of {}", id, vocabulary);
}

Model::State::State(const ModelConfig& c, const Groups& g, const ModelOptions& o, const Stage& own_stage)
    : config(c),
      groups(g),
      options(o),
      tensor_parallel{g.tensor->rank(), g.tensor->size(), c.sequence_parallel},
      stage(own_stage),
      rules(std::make_unique<RuleTable>(rule_table(c))),
      parameters(std::make_unique<Parameters>(*rules, Shards{tensor_parallel, {g.expert_tensor->rank(), g.expert_tensor->size(), false}},
                                              at::TensorOptions(o.parameters == Allocation::later ? at::kMeta : o.device).dtype(o.dtype))),
      rotary(c) {
  check_supported(c, *g.tensor);
  const TensorRegion region{g.tensor, residual_of(c)};
  const NormOptions norm{c.layernorm_epsilon, c.layernorm_zero_centered_gamma ? 1.0 : 0.0};
  const LayerSeams seams{region, {g.expert, g.expert_tensor, g.expert_tensor_expert}, attention_core(c.cp_comm_type, g)};
  if (stage.embedding || stage.prediction_layers > 0) embedding = {&parameters->get("embedding.word_embeddings.weight"), region};
  for (int64_t i = stage.first_layer; i < stage.first_layer + stage.layers; ++i)
    decoder.layers.push_back(make_decoder_layer(c, i, format("decoder.layers.{}.", i), *parameters, seams));
  if (c.num_moe_experts > 0) loads.resize(static_cast<size_t>(c.num_layers + c.mtp_num_layers));
  if (c.moe_router_load_balancing_type == "global_aux_loss") earlier.resize(loads.size());
  decoder.recomputed_stretches = recomputed_stretches(recompute_of(c), stage.layers);
  if (stage.loss) {
    final_norm = {&parameters->get("decoder.final_layernorm.weight"), norm};
    Parameter& output = parameters->get(c.share_embeddings_and_output_weights ? "embedding.word_embeddings.weight" : "output_layer.weight");
    loss_head = {&output, region};
    if (stage.prediction_layers > 0) prediction = make_prediction_layers(c, *parameters, seams);
    prediction_losses.resize(prediction.size());
    unread_prediction_sums.resize(prediction.size());
  }
  parameters->check_complete([&](const Rule& rule) { return is_elsewhere(rule, stage, c, seams.experts); });
  for (Parameter& p : parameters->all()) {
    p.is_copy = p.name == "embedding.word_embeddings.weight" && !stage.embedding;
    in_order.push_back(&p);
  }
  make_units();
}

void Model::State::make_units() {
  std::map<std::pair<std::string, int64_t>, Unit*> made;
  const auto unit_of = [&](const std::string& stack, int64_t number) {
    Unit*& unit = made[{stack, number}];
    return unit ? unit : unit = &units.emplace_back();
  };
  for (Parameter* p : in_order) {
    const bool is_embedding = p->name == "embedding.word_embeddings.weight";
    unit_of(p->rule->stack, p->rule->stack.empty() ? (is_embedding ? 0 : 1) : p->rule->layer)->parameters.push_back(p);
  }
  if (made.contains({"", 0})) embedding_unit = made.at({"", 0});
  for (int64_t i = stage.first_layer; i < stage.first_layer + stage.layers; ++i) decoder.units.push_back(unit_of("decoder.layers", i));
  for (size_t k = 0; k < prediction.size(); ++k) prediction[k].unit = unit_of("mtp.layers", static_cast<int64_t>(k));
  std::vector<Unit*> order;
  if (stage.embedding) order.push_back(made.at({"", 0}));
  for (int64_t i = stage.first_layer; i < stage.first_layer + stage.layers; ++i) order.push_back(unit_of("decoder.layers", i));
  if (stage.loss) head_unit = order.emplace_back(unit_of("", 1));
  for (size_t i = 0; i + 1 < order.size(); ++i) {
    order[i]->following = order[i + 1];
    if (i > 0 || !stage.embedding) order[i + 1]->preceding = order[i];  // a look-up's backward pass needs no values
  }
}

at::Tensor Model::State::embedded(const at::Tensor& ids_S) const {
  return look_up_in_unit(*embedding_unit, [&] { return embedding(ids_S); });
}

// The output layer's gradient is made in its forward pass.
TokenLosses Model::State::lost(const at::Tensor& hidden_SH, const at::Tensor& labels_S, const at::Tensor& weight_S) const {
  const Unit& unit = config.share_embeddings_and_output_weights ? *embedding_unit : *head_unit;
  if (unit.keeper) {
    unit.keeper->want_values(unit, UnitPass::again);
    if (at::GradMode::is_enabled()) unit.keeper->want_gradients(unit);
  }
  return loss_head(hidden_SH, labels_S, weight_S);
}

Stage stage_of(const ModelConfig& config, const Groups& groups, int64_t chunk) {
  const int64_t ranks = groups.pipeline->size();
  ModelConfig c = ranks == 1 ? unsplit(config) : config;
  require(ranks == c.pipeline_model_parallel_size, "model.pipeline_model_parallel_size: {}, the pipeline has {} ranks", c.pipeline_model_parallel_size, ranks);
  const PipelineSplit split = pipeline_split(c);
  PONTE_ASSERT(chunk >= 0 && chunk < split.chunks);
  return split.at(groups.pipeline->rank(), chunk);
}

Batch Model::State::own_tokens(const Batch& batch) const {
  const int64_t ranks = groups.context->size();
  if (ranks == 1) return batch;
  const int64_t T = batch.tokens_BT.size(1);
  const at::Tensor places = at::tensor(context_tokens(T, groups.context->rank(), ranks), at::kLong);
  const auto own = [&](const at::Tensor& t) { return t.defined() ? t.index_select(1, places.to(t.device())) : t; };
  Batch out{own(batch.tokens_BT), own(batch.labels_BT), own(batch.loss_mask_BT), own(batch.position_ids_BT),
            own(batch.document_starts_BT), own(batch.padding_BT)};
  if (!out.position_ids_BT.defined()) out.position_ids_BT = places.unsqueeze(0).expand_as(out.tokens_BT);
  return out;
}

Sequence Model::State::sequence_of(const Batch& batch) const {
  PONTE_ASSERT(batch.tokens_BT.dim() == 2 && batch.tokens_BT.scalar_type() == at::kLong);
  const int64_t B = batch.tokens_BT.size(0), T = batch.tokens_BT.size(1);
  const at::Tensor positions = batch.position_ids_BT.defined() ? batch.position_ids_BT : at::arange(T, at::kLong).unsqueeze(0).expand({B, T});
  return {B, T, rotary(positions.reshape({-1}), options.device), batch.document_starts_BT};
}

at::Tensor Model::State::hidden(const Batch& own, const at::Tensor& input_SH, std::shared_ptr<RoutingReport> routing) const {
  check_token_ids(own.tokens_BT, config.vocab_size);
  Sequence sequence = sequence_of(own);
  sequence.routing = std::move(routing);
  if (config.sequence_parallel)
    require(sequence.B * sequence.T % groups.tensor->size() == 0, "sequence_parallel: {} tokens of a micro-batch do not divide over {} tensor-parallel ranks",
            sequence.B * sequence.T, groups.tensor->size());
  PONTE_ASSERT(stage.embedding != input_SH.defined());
  const at::Tensor out_SH = decoder(stage.embedding ? embedded(flat(own.tokens_BT, options.device)) : input_SH, sequence);
  return stage.loss ? run_in_unit(*head_unit, [this](const at::Tensor& x) { return final_norm(x); }, out_SH) : out_SH;
}

Model::Model(const ModelConfig& config, const Groups& groups, const ModelOptions& options, int64_t chunk)
    : state_(std::make_unique<State>(config, groups, options, stage_of(config, groups, chunk))) {}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;

const ModelConfig& Model::config() const { return state_->config; }
const ModelOptions& Model::options() const { return state_->options; }
const Groups& Model::groups() const { return state_->groups; }
const RuleTable& Model::rules() const { return *state_->rules; }
const Stage& Model::stage() const { return state_->stage; }
std::span<Parameter* const> Model::parameters() { return state_->in_order; }

Parameter* Model::find_parameter(const std::string& name) {
  for (Parameter* p : state_->in_order)
    if (p->name == name) return p;
  return nullptr;
}

LossSum Model::forward_loss(const Batch& batch, double gradient_scale) {
  PONTE_ASSERT(state_->stage.embedding && state_->stage.loss);
  return forward_stage(batch, {}, gradient_scale).loss;
}

StageOutput Model::forward_stage(const Batch& batch, const at::Tensor& input_SH, double gradient_scale) {
  State& s = *state_;
  const at::Device device = s.options.device;
  const auto wide = s.options.dtype == at::kDouble ? at::kDouble : at::kFloat;
  const double micro_batch_tokens =
      batch.loss_mask_BT.defined() ? batch.loss_mask_BT.to(wide).sum().item<double>() : static_cast<double>(batch.tokens_BT.numel());
  const std::shared_ptr<RoutingReport> routing = s.routing_report(batch, gradient_scale * micro_batch_tokens);
  const Batch own = s.own_tokens(batch);
  const double valid_tokens =
      own.loss_mask_BT.defined() ? own.loss_mask_BT.to(wide).sum().item<double>() : static_cast<double>(own.tokens_BT.numel());
  const at::Tensor hidden_SH = s.hidden(own, input_SH, routing);
  const bool training = at::GradMode::is_enabled();
  if (!s.stage.loss) {
    if (routing && training) s.add_report(*routing);
    return {hidden_SH, {}};
  }
  const at::Tensor mask_S = own.loss_mask_BT.defined() ? flat(own.loss_mask_BT, device).to(wide)
                                                       : at::ones({own.tokens_BT.numel()}, at::TensorOptions(device).dtype(wide));
  check_token_ids(own.loss_mask_BT.defined() ? own.labels_BT.masked_select(own.loss_mask_BT != 0) : own.labels_BT, s.config.vocab_size);
  TokenLosses losses = s.lost(hidden_SH, flat(own.labels_BT, device), mask_S * gradient_scale);
  if (training && !s.prediction.empty()) losses.scaled = s.add_prediction_losses(batch, hidden_SH, routing, gradient_scale, losses.scaled);
  if (routing && training) s.add_report(*routing);
  return {{}, {(losses.losses_S * mask_S).sum(), losses.scaled, valid_tokens, losses.losses_S.view(own.labels_BT.sizes())}};
}

std::vector<int64_t> Model::activation_shape(const Batch& batch) const {
  const int64_t tokens = batch.tokens_BT.numel() / state_->groups.context->size();
  return {state_->config.sequence_parallel ? tokens / state_->groups.tensor->size() : tokens, state_->config.hidden_size};
}

at::Tensor Model::logits(const Batch& batch) {
  at::NoGradGuard off;
  require(state_->groups.context->size() == 1 && state_->stage.embedding && state_->stage.loss, "logits: not over context-parallel or pipeline ranks");
  return state_->loss_head.logits(state_->hidden(batch)).view({batch.tokens_BT.size(0), batch.tokens_BT.size(1), -1});
}

void Model::zero_gradients() {
  state_->loads.assign(state_->loads.size(), ExpertLoad());
  state_->earlier.assign(state_->earlier.size(), ExpertLoad());
  state_->unread_prediction_sums.assign(state_->unread_prediction_sums.size(), at::Tensor());
  state_->prediction_losses.assign(state_->prediction_losses.size(), PredictionLoss());
  for (const Unit& unit : state_->units) {
    if (unit.keeper) unit.keeper->zero_gradients(unit);
    else for (Parameter* p : unit.parameters) zero_gradient(*p);
  }
}

void Model::last_backward() {
  for (const Unit& unit : state_->units)
    if (unit.keeper) unit.keeper->last_backward(unit);
}

void Model::end_backward() {
  for (const Unit& unit : state_->units)
    if (unit.keeper) unit.keeper->gradients_done(unit);
}

std::deque<Unit>& Model::units() { return state_->units; }

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
  return ponte::training_flops_per_token(state_->config, state_->rules->rules, seq_length);
}

}  // namespace ponte
