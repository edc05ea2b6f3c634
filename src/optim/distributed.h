// What the ranks' optimizers say together: norms over everything, wherever its pieces lie.
#pragma once
#include "comm/group.h"
#include "optim/adamw.h"

namespace ponte {

// AdamW::measure of all ranks of `everyone` (each element of the model is counted by one of them): the same report, to the bit, on each.
GradientReport measure_over(const AdamW& optimizer, Group& everyone, double gradient_scale, AdamW::Zeros zeros);
double parameter_norm_over(const AdamW& optimizer, Group& everyone);

}  // namespace ponte
