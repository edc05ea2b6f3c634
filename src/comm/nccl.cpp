#include "comm/nccl.h"

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace ponte {

c10::intrusive_ptr<c10d::Backend> nccl_backend(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size, std::chrono::milliseconds timeout) {
  using Nccl = c10d::ProcessGroupNCCL;
  auto options = Nccl::Options::create(/*is_high_priority_stream=*/true);  // communication goes ahead of the computation it holds up
  options->timeout = timeout;
  return c10::make_intrusive<Nccl>(std::move(store), static_cast<int>(rank), static_cast<int>(size), std::move(options));
}

}  // namespace ponte
