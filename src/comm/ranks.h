// This process among the processes of a run: joining them, groups over any of them, and saying where it is for those who wait. Ranks meet at a store
// that rank 0 or the launcher serves (c10d's TCPStore); data moves over c10d's Gloo, and on CUDA over its NCCL.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/environment.h"
#include "base/errors.h"
#include "comm/group.h"
#include "layout/mesh.h"

namespace ponte {

// How long ranks wait for each other.
struct Patience {
  std::chrono::milliseconds to_meet, in_a_collective;
};

class Ranks {
 public:
  // Meets the others; UserError naming the ranks that did not come in time, or what does not fit: a rank that is there twice, another number of ranks.
  // Tensors of `device` travel over NCCL where that is a CUDA card, all others over Gloo.
  static std::unique_ptr<Ranks> join(const LaunchEnvironment& launch, Patience patience, const at::Device& device = at::kCPU);
  static std::unique_ptr<Ranks> single();
  virtual ~Ranks() = default;

  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  // The group of these ranks, in this order; all of them call, each with its own list. One rank: the group of one.
  virtual std::shared_ptr<Group> group(const std::string& name, const std::vector<int64_t>& members) = 0;
  virtual Group& world() = 0;
  // What this rank does now, for those who wait for it: "forward", "saving".
  virtual void phase(std::string name) = 0;
  // Tells the others that this rank ends with an error.
  virtual void failed(std::string_view message) = 0;
};

// What a run's keys begin with in the store; a run started again does not see those of before.
std::string store_prefix(int64_t restarts);

// All groups of this rank in a mesh over the ranks.
Groups mesh_groups(Ranks& ranks, const Mesh& mesh);

// An error every rank has: one of them says it.
struct AgreedError : UserError {
  using UserError::UserError;
};

// Every rank's text, by rank.
std::vector<std::string> gather_text(Group& group, const std::string& mine);
// Runs `body`, which calls no collective; where it throws on some rank, an AgreedError is thrown on every rank, naming the ranks it failed
// on unless all failed alike.
void agree(Group& group, const std::function<void()>& body);

}  // namespace ponte
