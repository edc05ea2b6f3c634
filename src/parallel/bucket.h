// A bucket: parameters whose gradients, and where shared out values, travel together. They are laid end to end; every rank of the group has a stretch of that
// line, cut between rows (layout/shares.h), so a share of a parameter is rows of it, and a collective moves the line as it lies.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "comm/group.h"
#include "layout/shares.h"
#include "nn/parameter.h"

namespace ponte {

// What replicas divide among themselves; each includes what stands before it (Megatron-FSDP's data_parallel_sharding_strategy: no_shard, optim, optim_grads,
// optim_grads_params).
enum class Sharding { nothing, optimizer, gradients, parameters };
// What gradients travel as: as they were accumulated, fp32, or in the parameters' type. Sums are fp32 in both.
enum class Reduction { as_accumulated, as_parameters };
// Where groups of sharers hold copies of one another: what those divide further.
enum class Copies { keep_all, share_optimizer };  // share_optimizer: where parameters are divided

// A flat tensor whose memory comes and goes while views of it stay.
class Buffer {
 public:
  Buffer(int64_t elements, const c10::TensorOptions& options);  // without memory
  // Elements from `first` on in this shape. Writing to the buffer does not count as changing the view, so that autograd may keep it.
  at::Tensor view(int64_t first, c10::IntArrayRef shape) const;
  bool is_present() const;
  void take(at::Tensor contents);  // contiguous, of this length and type, and nobody else's
  void release();
  const at::Tensor& flat() const { return flat_; }

 private:
  at::Tensor flat_;
};

class Bucket {
 public:
  struct Settings {
    Sharding sharding;
    Reduction reduction;
    Copies copies;
    at::Device device;  // of the memory
  };
  struct Member {
    Parameter* parameter;
    std::vector<Rows> parts;  // by rank of the sharers
    Rows own;                 // of this rank's part, what no copy of it answers for
  };
  // Gives the parameters their memory, values as they are (zeros where they have none yet). All are of one type, and all or none are trained.
  Bucket(std::vector<Parameter*> parameters, std::shared_ptr<Group> sharers, std::shared_ptr<Group> copies, const Settings& settings);

  const std::vector<Member>& members() const { return members_; }
  bool is_trained() const;
  // Rows whose optimizer state this rank holds.
  Rows updated(const Member& member) const;

  // Values, where they are shared out: of the whole line, from start_values and finish_values to release_values.
  void start_values();
  void finish_values();
  void release_values();
  // After the optimizer; the others' values are here after finish_values.
  void start_updated_values();

  void zero_gradients();
  void open_gradients();  // where they are shared out: memory for the whole line, zeros
  // What has been added to the line goes to its sharers, which add it to their shares; the line's memory is given back where gradients are shared out. Finish
  // comes before anything is added again.
  void start_reduction();
  void finish_reduction();
  // After the step's last: sums over copies of this share.
  void reduce_over_copies();

 private:
  bool shares(Sharding what) const { return settings_.sharding >= what && sharers_->size() > 1; }
  bool divides_copies() const { return settings_.copies == Copies::share_optimizer && shares_values() && copies_->size() > 1; }
  void place_values(const c10::TensorOptions& options);
  void place_gradients(const c10::TensorOptions& options);
  bool shares_gradients() const { return shares(Sharding::gradients); }
  bool shares_values() const { return shares(Sharding::parameters); }
  void spread_updated_values(const at::Tensor& all);
  int64_t first_of(int64_t rank) const;

  Settings settings_;
  std::shared_ptr<Group> sharers_, copies_;
  std::vector<Member> members_;
  int64_t elements_ = 0;
  std::vector<int64_t> part_elements_, own_elements_;  // by rank of the sharers; of this rank's part, by rank of the copies
  std::unique_ptr<Buffer> values_, gradients_;         // the whole line; values_: only where shared out
  at::Tensor value_share_, gradient_share_;            // this rank's stretch
  std::unique_ptr<PendingTensor> values_coming_, gradients_going_;
  bool accumulated_ = false;                           // whether gradient_share_ holds something of this step
};

}  // namespace ponte
