// NCCL's back end for c10d, for tensors on CUDA cards. Its code is inside LibTorch's CUDA build; comm/nccl.cpp is the only file that sees its headers and is
// compiled where the torch wheel is that build and NCCL's header is found, else comm/no_nccl.cpp stands in its place.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>

namespace ponte {

// This process's rank uses the thread's current card. A collective that does not end within `timeout` ends the process: the device cannot be taken back
// from it. UserError where this build has no NCCL.
c10::intrusive_ptr<c10d::Backend> nccl_backend(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size, std::chrono::milliseconds timeout);

}  // namespace ponte
