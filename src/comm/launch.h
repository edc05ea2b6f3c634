// Local ranks as child processes: started together with what they need to find each other, watched, and ended together.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ponte {

// Who may read the terminal. rank_0: it stays in the launcher's process group, so that a key's signal reaches it at once, and again from the launcher.
enum class Terminal { launcher, rank_0 };

struct LaunchOptions {
  std::vector<std::string> command;  // program and arguments; each rank runs it with RANK, WORLD_SIZE, ... set as torchrun sets them
  int64_t processes = 1;
  Terminal terminal = Terminal::launcher;
  int64_t max_restarts = 0;          // after a rank has died or hung; not after an error that every rank reports
};

// Runs the ranks to their end. Rank 0 has this process's stderr and stdout; lines of the others begin with "[rank 3] ". SIGTERM and SIGINT go to every
// rank. When one ends badly the others get some seconds to say why they cannot go on, and are killed. Returns the exit status of the whole.
int launch_ranks(const LaunchOptions& options);

}  // namespace ponte
