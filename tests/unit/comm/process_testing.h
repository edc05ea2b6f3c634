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

// `lost`: a rank that does not end by itself; killed when the others have ended.
inline std::vector<int> run_processes(int64_t size, std::chrono::milliseconds timeout, const std::function<void(Ranks&)>& body, int64_t lost = -1) {
  c10d::TCPStoreOptions options;
  options.port = 0;
  options.isServer = true;
  options.waitWorkers = false;
  const auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  std::vector<pid_t> children;
  for (int64_t r = 0; r < size; ++r) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      LaunchEnvironment launch;
      launch.rank = r;
      launch.world_size = size;
      launch.master_port = store->getPort();
      launch.launcher_has_store = true;
      int status = 0;
      try {
        body(*Ranks::join(launch, {timeout, timeout}));
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << r << ": " << error.what();
      }
      status = ::testing::Test::HasFailure() ? 1 : 0;
      ::_exit(status);
    }
    children.push_back(pid);
  }
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

}  // namespace ponte
