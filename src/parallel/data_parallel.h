// Data parallelism: replicas that see other samples add up their gradients. With a distributed optimizer (ZeRO-1, Rajbhandari et al. 2020) a replica
// receives, updates and gives out only its share of the parameters; without, every replica does all of it. Either way sums run in rank order, and both
// give the same bits.
#pragma once
#include <span>
#include <vector>

#include "comm/group.h"
#include "layout/shares.h"
#include "nn/parameter.h"

namespace ponte {

class DataParallel {
 public:
  enum class Optimizer { replicated, distributed };
  enum class Reduction { as_accumulated, as_parameters };  // what gradients travel as: fp32, or the parameters' type (sums are fp32 in both)
  struct Settings {
    Optimizer optimizer = Optimizer::replicated;
    Reduction reduction = Reduction::as_accumulated;
    int64_t bucket_elements = 40'000'000;  // gradients of this many parameters go together
  };
  // Takes the parameters that are trained. Their main_grad become pieces of buckets. Dense parameters are summed over groups.data_context, experts
  // over groups.expert_data.
  DataParallel(std::span<Parameter* const> parameters, const Groups& groups, const Settings& settings);

  struct Share {
    Parameter* parameter;
    Rows rows;     // of which this replica holds the optimizer state: its share, or all of them
    Rows own;      // this replica's share: counted in norms, written to checkpoints
  };
  std::span<const Share> shares() const { return shares_; }

  // After the last backward: main_grad of `rows` become sums over the replicas.
  void reduce_gradients();
  // After the optimizer: the others' rows of the parameters.
  void gather_values();
  int64_t bucket_count() const { return static_cast<int64_t>(buckets_.size()); }

 private:
  struct Member {
    Parameter* parameter;
    std::vector<Rows> parts;  // by replica
  };
  struct Bucket {
    Group* group;
    std::vector<Member> members;
    at::Tensor gradients;               // all members', one after another
    std::vector<int64_t> part_elements; // by replica
  };
  void close(Bucket& bucket);
  at::Tensor sum_of_parts(const Bucket& bucket) const;

  Settings settings_;
  std::vector<std::shared_ptr<Group>> groups_;
  std::vector<Bucket> buckets_;
  std::vector<Share> shares_;
};

}  // namespace ponte
