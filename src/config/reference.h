// docs/configuration.md, from the field listing.
#pragma once
#include <string>

namespace ponte {

std::string configuration_reference();

}  // namespace ponte
