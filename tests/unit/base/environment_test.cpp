// What a launcher's environment says of a rank. Each case is a process of its own.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <map>

#include "base/environment.h"
#include "base/errors.h"

namespace ponte {
namespace {

using Variables = std::map<std::string, std::string>;

[[noreturn]] void end_with_status(bool good) { ::_exit(good ? 0 : 1); }

void set(const Variables& variables) {
  for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) ::unsetenv(name);
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
}

[[noreturn]] void expect_address(const std::string& nodes, const std::string& first) {
  set({{"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_STEP_NODELIST", nodes}});
  end_with_status(launch_environment().master_address == first);
}

[[noreturn]] void expect_refused_port(const std::string& port) {
  set({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", port}});
  try {
    launch_environment();
  } catch (const UserError& error) {
    end_with_status(error.what() == format("MASTER_PORT is {}, wanted a port from 1 to 65535", port));
  }
  end_with_status(false);
}

TEST(LaunchEnvironment, Rank0RunsOnTheFirstNodeOfTheList) {
  const std::pair<const char*, const char*> lists[] = {{"node1", "node1"},        {"node3,node7", "node3"},    {"node[003-006,009]", "node003"},
                                                       {"node[7,9-12]", "node7"}, {"a1,node[3-5]", "a1"},      {"rack[1-2]node[3-4]", "rack1node3"},
                                                       {"n[1-2],m[1-9]", "n1"},   {"n[10-12]-ib0", "n10-ib0"}};
  for (const auto& [nodes, first] : lists) EXPECT_EXIT(expect_address(nodes, first), testing::ExitedWithCode(0), "") << nodes;
}

TEST(LaunchEnvironment, APortIsAPort) {
  for (const char* port : {"0", "-1", "65536", "99999"}) EXPECT_EXIT(expect_refused_port(port), testing::ExitedWithCode(0), "") << port;
}

}  // namespace
}  // namespace ponte
