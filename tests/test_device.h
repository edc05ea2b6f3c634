// The device a test computes on: a parameter of the run, not a copy of the test. PONTE_TEST_DEVICE=cuda runs the same tables on a card.
#pragma once
#include <ATen/ATen.h>

#include "base/environment.h"
#include "kernels/device.h"

namespace ponte {

inline at::Device test_device() {
  static const at::Device device = choose_device(environment("PONTE_TEST_DEVICE").value_or("cpu"));
  return device;
}
inline at::Tensor on_test_device(const at::Tensor& t) { return t.to(test_device()); }

}  // namespace ponte
