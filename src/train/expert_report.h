// How evenly a step used the experts, in the words of the log line, the event files and logger.jsonl.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "parallel/rank_model.h"

namespace ponte {

struct ExpertSummary {
  std::string log;                                     // " load_balancing_loss: 1.000123E+00 | busiest expert: 1.31 |"; empty for a dense model
  std::vector<std::pair<std::string, double>> losses;  // mtp_1 loss and so on; load_balancing_loss, z_loss: those with a coefficient
  std::vector<std::pair<std::string, double>> extremes; // moe/layer_3/busiest_expert, .../idlest_expert
  std::vector<std::vector<double>> loads;              // per sparse layer each expert's share of an even load
  std::vector<std::string> load_tags;                  // of these: moe/layer_3/expert_load
};

// Of the step whose reports were last reduced.
ExpertSummary summarize_experts(const RankModel& model);

}  // namespace ponte
