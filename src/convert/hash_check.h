// Stored bytes against the content hashes written with them: finds a changed or damaged checkpoint without its source.
#pragma once
#include "convert/segment_source.h"

namespace ponte {

// All of it, whatever is read of it later. UserError listing what differs; without a manifest there is nothing to check.
void check_native_manifest(const NativeSource& source, int64_t threads);
// Against the folder's ponte_manifest.json; without one there is nothing to check.
void check_hf_manifest(const HfCheckpoint& checkpoint, int64_t threads);

}  // namespace ponte
