// What every rank was told for itself, and has to have been told alike.
#pragma once
#include <string>
#include <vector>

#include "comm/group.h"

namespace ponte {

// Collective. `settings`: one text for each, "name = value", the same names in the same order wherever nothing is wrong. An AgreedError on every rank where
// some rank's are not rank 0's, naming those ranks and both values. `whose`: "its configuration is", "its flags are".
void agree_on_settings(Group& group, const std::vector<std::string>& settings, const char* whose);

}  // namespace ponte
