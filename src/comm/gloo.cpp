#include "comm/gloo.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace ponte {

c10::intrusive_ptr<c10d::Backend> gloo_backend(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size, const GlooOptions& options) {
  using Gloo = c10d::ProcessGroupGloo;
  auto settings = Gloo::Options::create(options.timeout);
  constexpr bool kConnectNow = false;
  settings->devices.push_back(!options.interface.empty() ? Gloo::createDeviceForInterface(options.interface, kConnectNow)
                              : options.loopback         ? Gloo::createDeviceForHostname("127.0.0.1", kConnectNow)
                                                         : Gloo::createDefaultDevice(kConnectNow));
  return c10::make_intrusive<Gloo>(std::move(store), static_cast<int>(rank), static_cast<int>(size), std::move(settings));
}

}  // namespace ponte
