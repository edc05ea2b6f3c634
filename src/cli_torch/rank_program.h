// What commands that run on several ranks share: meeting, ending with one message, and starting ranks on this machine.
#pragma once
#include <exception>
#include <functional>
#include <memory>
#include <span>

#include "cli/command.h"
#include "comm/launch.h"
#include "comm/ranks.h"

namespace ponte {

// Runs `body` as the rank the launcher made of this process, on the device that `device` names (kernels/device.h). An error that all ranks have is said by
// rank 0; the others are told of one that only this rank has. `problem`: what was wrong before the ranks met. Returns the exit status.
int run_as_rank(const LaunchEnvironment& launch, const std::string& device, Patience patience, std::exception_ptr problem,
                const std::function<void(const std::shared_ptr<Ranks>& ranks, const at::Device& device)>& body);
// Collective: refuses ranks whose flags are not rank 0's, but for those of `may_differ` ("--threads"), which are about a machine.
void agree_on_flags(Ranks& ranks, const CLI::App& app, std::span<const std::string_view> may_differ);
// Starts `processes` ranks of `ponte-torch COMMAND ARGUMENTS` here and watches them to their end. Returns the exit status.
int launch_command(std::string_view command, const Arguments& arguments, int64_t processes, int64_t max_restarts,
                   Terminal terminal = Terminal::launcher);

}  // namespace ponte
