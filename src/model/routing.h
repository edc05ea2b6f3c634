// Summing what routers report.
#pragma once
#include <vector>

#include "nn/router.h"

namespace ponte {

// Adds a micro-batch's loads to the step's, layer by layer; the losses become means over the tokens of both.
void add_loads(std::vector<ExpertLoad>& step, const std::vector<ExpertLoad>& micro_batch);

}  // namespace ponte
