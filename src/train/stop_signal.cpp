#include "train/stop_signal.h"

#include <csignal>

namespace ponte {
namespace {

volatile std::sig_atomic_t received_signal = 0;  // a handler can reach nothing but a global
constexpr int kSignals[] = {SIGTERM, SIGINT};

void on_signal(int number) {
  received_signal = number;
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal(Handle handle) : handle_(handle) {
  received_signal = 0;
  if (handle_ == Handle::none) return;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (int number : kSignals) sigaction(number, &action, nullptr);
}

StopSignal::~StopSignal() {
  if (handle_ == Handle::none) return;
  for (int number : kSignals) std::signal(number, SIG_DFL);
}

bool StopSignal::received() { return received_signal != 0; }
const char* StopSignal::name() { return received_signal == SIGINT ? "SIGINT" : "SIGTERM"; }

}  // namespace ponte
