// Ranks as forked processes, which meet at a store this process serves; a rank's failed expectations are its exit status.
#pragma once
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/errors.h"
#include "comm/ranks.h"

namespace ponte {

// A rank, and of how many. `lost`: the process that does not end by itself; killed when the others have ended.
using Told = std::pair<int64_t, int64_t>;
inline std::vector<int> fork_ranks(const std::vector<Told>& told, const std::function<void(const LaunchEnvironment&)>& body, int64_t lost = -1) {
  // The store is served when all have been forked: its thread looks up names, and a child would inherit that lock as it is.
  int port_pipe[2];
  if (::pipe(port_pipe) != 0) fail_errno("no pipe for the ranks");
  std::vector<pid_t> children;
  for (const auto& [rank, size] : told) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      LaunchEnvironment launch;
      launch.rank = rank;
      launch.world_size = size;
      if (::read(port_pipe[0], &launch.master_port, sizeof launch.master_port) != sizeof launch.master_port) ::_exit(1);
      launch.launcher_has_store = true;
      try {
        body(launch);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
      }
      ::_exit(::testing::Test::HasFailure() ? 1 : 0);
    }
    children.push_back(pid);
  }
  c10d::TCPStoreOptions options;
  options.port = 0;
  options.isServer = true;
  options.waitWorkers = false;
  const auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  const decltype(LaunchEnvironment::master_port) port = store->getPort();
  for (size_t r = 0; r < children.size(); ++r)
    if (::write(port_pipe[1], &port, sizeof port) != sizeof port) fail_errno("the ranks cannot be told of their store");
  ::close(port_pipe[0]);
  ::close(port_pipe[1]);
  std::vector<int> out(children.size());
  const auto collect = [&](size_t r) {
    int status = 0;
    ::waitpid(children[r], &status, 0);
    out[r] = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  };
  for (size_t r = 0; r < children.size(); ++r)
    if (static_cast<int64_t>(r) != lost) collect(r);
  if (lost >= 0) {
    ::kill(children[static_cast<size_t>(lost)], SIGKILL);
    collect(static_cast<size_t>(lost));
  }
  return out;
}

inline std::vector<int> run_processes(int64_t size, std::chrono::milliseconds timeout, const std::function<void(Ranks&)>& body, int64_t lost = -1) {
  std::vector<Told> told;
  for (int64_t r = 0; r < size; ++r) told.push_back({r, size});
  return fork_ranks(told, [&](const LaunchEnvironment& launch) { body(*Ranks::join(launch, {timeout, timeout})); }, lost);
}

}  // namespace ponte
