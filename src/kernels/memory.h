// The process's allocator, told what a training process does: the same large buffers come and go every step.
#pragma once

namespace ponte {

// Freed buffers stay with the process instead of going back to the system page by page (glibc; elsewhere nothing). Once, from main.
void keep_freed_memory();

}  // namespace ponte
