// The commands of the torch-free half, each in a file of its own name. All take the arguments after their name and return the exit status.
#pragma once
#include "cli/command.h"

namespace ponte {

int run_data(const Arguments& arguments);        // data.cpp

}  // namespace ponte
