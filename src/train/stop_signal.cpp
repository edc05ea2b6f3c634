#include "train/stop_signal.h"

#include <csignal>
#include <ctime>

namespace ponte {
namespace {

volatile std::sig_atomic_t received_signal = 0;  // a handler can reach nothing but a global
volatile std::sig_atomic_t first_came = 0;  // seconds of a clock that only goes on
constexpr int kSignals[] = {SIGTERM, SIGINT};
constexpr std::sig_atomic_t kOneRequest = 2;

std::sig_atomic_t now() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::sig_atomic_t>(time.tv_sec);
}

void on_signal(int number) {
  if (received_signal == 0) {
    first_came = now();
    received_signal = number;
  } else if (now() - first_came >= kOneRequest) {
    std::signal(number, SIG_DFL);
    ::raise(number);
  }
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
