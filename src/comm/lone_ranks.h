// One rank of a run whose other ranks are not there: collectives end at once with a result of the right shape. To tensors of the meta device there is
// nothing else; of host tensors (counts, places) every other rank is taken to bring what this one brings, and messages received are zeros. What is asked of
// each group is kept, so that ranks that ran alone can be held against each other (comm/call_comparison.h).
#pragma once
#include <memory>
#include <vector>

#include "comm/ranks.h"

namespace ponte {

struct GroupCall {
  Collective collective;
  at::ScalarType type;
  std::vector<int64_t> shape;           // of this rank's tensor
  std::vector<int64_t> rows, received;  // by rank of the group, of calls that are told rows; received: of all_to_all
  Transfer::Direction direction{};      // of a transfer
  int64_t peer = -1;                    // of a transfer; the root of a broadcast
};

// "all-gather of BFloat16 [4096, 2048]".
std::string text_of(const GroupCall& call);

struct GroupCalls {
  std::string group;
  std::vector<int64_t> ranks;
  std::vector<GroupCall> calls;
};

class LoneRank final : public Ranks {
 public:
  // UserError when there is no such rank.
  LoneRank(int64_t rank, int64_t size);
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  Group& world() override { return *world_; }
  std::shared_ptr<Group> group(const std::string& name, const std::vector<int64_t>& members) override;
  void phase(std::string name) override { phase_ = std::move(name); }
  void failed(std::string_view) override {}

  const std::vector<std::shared_ptr<GroupCalls>>& calls() const { return calls_; }
  // What it did last: phase, and the last call with its group.
  std::string whereabouts() const;

 private:
  std::shared_ptr<Group> make_group(const std::string& name, const std::vector<int64_t>& members);
  int64_t rank_, size_;
  std::string phase_ = "start";
  std::vector<std::shared_ptr<GroupCalls>> calls_;
  std::shared_ptr<const GroupCalls*> last_ = std::make_shared<const GroupCalls*>(nullptr);  // that was called
  std::shared_ptr<Group> world_;
};

}  // namespace ponte
