// A .bin/.idx pair in the making: built in a hidden folder beside its place and moved there whole, .idx last, so no reader ever finds half
// a pair.
#pragma once
#include <string>

#include "base/file.h"

namespace ponte {

// ".<name of prefix>.<purpose>", beside the pair.
fs::path work_folder(const fs::path& prefix, std::string_view purpose);

// UserError when either file of the pair exists.
void require_no_pair(const fs::path& prefix);

// Moves FROM.bin and FROM.idx over TO.bin and TO.idx. Interrupted at any point and called again, it completes.
void publish_pair(const fs::path& from, const fs::path& to);

}  // namespace ponte
