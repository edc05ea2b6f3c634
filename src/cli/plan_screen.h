// What `ponte plan` prints: a plan as one screen, a search as a table, both as JSON.
#pragma once
#include <string>

#include "base/json.h"
#include "layout/plan_search.h"

namespace ponte {

struct PlanTitle {
  std::string model;    // "qwen3_235b_a22b_pretrain_config"
  std::string gpu;      // "h100"
};
std::string plan_screen(const Plan& plan, const Machine& machine, const PlanTitle& title);
Json plan_json(const Plan& plan, const Machine& machine, const PlanTitle& title);

std::string search_screen(const SearchResult& result, const Config& from, int64_t ranks, const Machine& machine, const PlanTitle& title, bool all);
Json search_json(const SearchResult& result, const Config& from, int64_t ranks, const Machine& machine, const PlanTitle& title);

// "2.35e11" as people say it: "235.1 B".
std::string human_count(double count);

}  // namespace ponte
