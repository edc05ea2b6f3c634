// In place of comm/nccl.cpp in builds without NCCL.
#include "base/errors.h"
#include "comm/nccl.h"

namespace ponte {

c10::intrusive_ptr<c10d::Backend> nccl_backend(c10::intrusive_ptr<c10d::Store>, int64_t, int64_t, std::chrono::milliseconds) {
  fail("several ranks on CUDA cards talk over NCCL, which this build is without: it was made with a torch wheel for processors, or without nccl.h");
}

}  // namespace ponte
