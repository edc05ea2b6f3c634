// The commands that compute, each in a file of its own name. All take the arguments after their name and return the exit status.
#pragma once
#include "cli/command.h"

namespace ponte {

int run_train(const Arguments& arguments);
int run_generate(const Arguments& arguments);
int run_chat(const Arguments& arguments);
int run_verify_forward(const Arguments& arguments);
int run_plan_rank(const Arguments& arguments);

}  // namespace ponte
