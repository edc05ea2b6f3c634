// One connection after another, closed as soon as it stands.
#include "comm/port.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

namespace ponte {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPause{100}, kAttempt{5000};

std::chrono::milliseconds left_until(Clock::time_point end) { return std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()); }

bool connects(const addrinfo& address, Clock::time_point deadline) {
  const int socket = ::socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address.ai_protocol);
  if (socket < 0) return false;
  bool stands = ::connect(socket, address.ai_addr, address.ai_addrlen) == 0;
  if (!stands && errno == EINPROGRESS) {
    pollfd polled{socket, POLLOUT, 0};
    int error = 0;
    socklen_t length = sizeof error;
    const auto patience = std::clamp(left_until(deadline), std::chrono::milliseconds(0), kAttempt);
    stands = ::poll(&polled, 1, static_cast<int>(patience.count())) == 1 && ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0;
  }
  ::close(socket);
  return stands;
}

}  // namespace

bool answers_by(const std::string& host, int64_t port, Clock::time_point deadline) {
  const addrinfo hints{.ai_flags = AI_NUMERICSERV, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  do {
    addrinfo* found = nullptr;
    if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) == 0) {
      bool stands = false;
      for (const addrinfo* address = found; address && !stands; address = address->ai_next) stands = connects(*address, deadline);
      ::freeaddrinfo(found);
      if (stands) return true;
    }
    std::this_thread::sleep_for(std::clamp(left_until(deadline), std::chrono::milliseconds(0), kPause));
  } while (Clock::now() < deadline);
  return false;
}

}  // namespace ponte
