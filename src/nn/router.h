// The router of a sparse layer: which experts a token goes to, with what weight, and the losses that keep the experts evenly used. Source:
// megatron/core/transformer/moe/router.py and moe_utils.py; Fedus et al. 2021 (auxiliary loss), Zoph et al. 2022 (z-loss), Qiu et al. 2025 (global
// auxiliary loss), Wang et al. 2024 (expert bias). docs/numerics.md says where Megatron and transformers differ.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "comm/group.h"
#include "config/model_config.h"
#include "nn/parameter.h"

namespace ponte {

// How the tokens of one layer were spread; of one whole micro-batch, or summed over several.
struct ExpertLoad {
  at::Tensor tokens_E;             // fp32; how many (token, choice) pairs each expert got, padding left out
  double tokens = 0;               // real tokens routed
  double balancing = 0, z = 0;     // the losses without their coefficients; balancing is 1 when experts are used evenly
  at::Tensor unread_2;             // fp64 [balancing, z] times tokens, not yet part of the two above: on a device nobody waits for them until read_losses
};
void read_losses(std::vector<ExpertLoad>& loads);

// What routers need to know of a micro-batch, and what they report of it. Running a layer again (recompute) writes the same report again.
struct RoutingReport {
  int64_t B = 1, T = 0;            // of the whole micro-batch
  at::Tensor real_S;               // bool: tokens that are not padding, of those this rank routes; undefined: all
  // The ranks that route the rest of the micro-batch (sequence and context parallelism), and what stands where; null: this rank routes it all, in order.
  std::shared_ptr<Group> sharers;
  at::Tensor place_S;              // int64, in host memory: row x T + place in the row, of the tokens this rank routes; ascending
  std::vector<double> real_tokens_B;  // by row, of the whole micro-batch; empty: count real_S
  // Replicas that see the other micro-batches of the same moment (global_aux_loss counts those of lower ranks as earlier ones); null: none.
  std::shared_ptr<Group> replicas;
  double tokens_of_lower = 0;      // real tokens of the lower ranks' micro-batches of the same moment
  double objective_scale = 0;      // factor of the balancing losses in the step's objective; 0: they have no gradient
  std::vector<ExpertLoad> before;  // per layer: earlier micro-batches of the step, of all replicas (what global_aux_loss counts besides this one)
  std::vector<ExpertLoad> loads;   // per layer; a dense layer's is left undefined
};

enum class Balancing { none, micro_batch, sequence, global };  // none, aux_loss, seq_aux_loss, global_aux_loss

struct RouterOptions {
  int64_t experts, choices;
  bool pre_softmax, sigmoid, force_balanced;
  double scaling_factor;
  int64_t groups, group_choices;   // 0: every expert may be chosen
  Balancing balancing;
  double balancing_coefficient, z_coefficient;
  std::optional<double> capacity_factor;
  bool drop_by_position;           // else the smallest weights go
  std::optional<at::ScalarType> dtype;  // of the logits; none: the activations'
};
// UserError for what does not exist (sinkhorn, groups that do not divide).
RouterOptions router_options(const ModelConfig& config);

struct Routing {
  at::Tensor weights_SK;  // fp32 (fp64 for fp64), differentiable
  at::Tensor experts_SK;  // int64; -1: this choice goes nowhere (padding, or dropped because the expert is full)
};

struct Router {
  Parameter* weight = nullptr;       // [E, H]
  Parameter* expert_bias = nullptr;  // [E] fp32, moved by updated_expert_bias and by no gradient
  RouterOptions options;
  int64_t layer = 0;                 // index into RoutingReport's lists

  // report: nullptr in generation.
  Routing operator()(const at::Tensor& x_SH, RoutingReport* report) const;
  // The choice alone, from the gate's logits (at least fp32).
  Routing choose(const at::Tensor& logits_SE) const;
};

// E x sum over experts of (share of the choices) x (mean probability): the load-balancing loss of a group of tokens, 1 when both are even.
// probabilities_SE: normalised scores; tokens_E and tokens: of the group the shares are counted over.
at::Tensor balancing_loss(const at::Tensor& probabilities_SE, const at::Tensor& tokens_E, double tokens, int64_t choices);

// One update of the balancing bias from a step's load: towards experts that got less than their share by `rate`.
at::Tensor updated_expert_bias(const at::Tensor& bias_E, const at::Tensor& tokens_E, double rate);

}  // namespace ponte
