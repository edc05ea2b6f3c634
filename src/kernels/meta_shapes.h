// Shapes of the operations that LibTorch's meta device knows in Python alone, for those a training step uses.
#pragma once

namespace ponte {

// Makes them known to LibTorch, for the rest of the process.
void register_meta_shapes();

}  // namespace ponte
