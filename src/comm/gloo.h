// Gloo's back end for c10d. Its code is inside LibTorch; this is the only file that sees Gloo's headers.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <string>

namespace ponte {

struct GlooOptions {
  std::chrono::milliseconds timeout;
  std::string interface;  // of the network; "": that of this machine's name
  bool loopback = false;  // all ranks are on this machine
};
c10::intrusive_ptr<c10d::Backend> gloo_backend(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size, const GlooOptions& options);

}  // namespace ponte
