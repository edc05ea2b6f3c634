// The bytes that tensors of the meta device stand for: nobody gives them memory, but each says when it comes and when it goes, so that a program run on them
// has a peak. What ATen's own kernels of a card take for a moment is not among them.
#pragma once
#include <cstdint>

namespace ponte {

class MetaMemory {
 public:
  // Counts from the first call on, for the rest of the process; for one thread's tensors at a time.
  static MetaMemory& counted();
  int64_t live() const { return live_; }
  int64_t peak() const { return peak_; }
  // The peak is that from now on.
  void restart() { peak_ = live_; }

 private:
  friend class MetaAllocator;
  int64_t live_ = 0, peak_ = 0;
};

}  // namespace ponte
