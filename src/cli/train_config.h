// The part of `ponte train` that needs no torch: its help and --dry-run.
#pragma once
#include <optional>

#include "cli/command.h"
#include "recipes/flags.h"

namespace ponte {

// The exit status when the command ends here; nullopt: there is something to train.
std::optional<int> end_without_training(const TrainArguments& arguments);

}  // namespace ponte
