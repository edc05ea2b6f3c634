// Data parallelism: replicas that see other samples add up their gradients. What else they hold in common they may divide: the optimizer's state (ZeRO-1,
// Rajbhandari et al. 2020), gradients (ZeRO-2), parameters (ZeRO-3, fully sharded data parallelism). Sums run in rank order. Copies of groups of sharers
// (HSDP) add up their shares once a step.
#pragma once
#include <deque>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "model/model.h"
#include "parallel/bucket.h"

namespace ponte {

// Whether what travels does so while something else is computed. Sums and bytes are the same.
enum class Overlap { none, with_compute };

class DataParallel final : public UnitKeeper {
 public:
  struct Settings {
    Sharding sharding = Sharding::nothing;
    Reduction reduction = Reduction::as_accumulated;
    Copies copies = Copies::keep_all;
    // While others compute: gradients go when a backward pass is done with them, values come before they are used.
    Overlap gradients = Overlap::none, values = Overlap::none;
    int64_t bucket_elements = 40'000'000;  // gradients of this many parameters go together; where gradients are divided, a unit's do
  };
  // `chunks`: this rank's stages; they outlive this. Dense parameters are divided over groups.data_context_shares and summed over groups.data_context, experts
  // over those of expert data. Gives the parameters their memory (ModelOptions::parameters may be `later`).
  DataParallel(std::span<Model* const> chunks, const Groups& groups, const Settings& settings);
  ~DataParallel() override;
  DataParallel(const DataParallel&) = delete;

  struct Share {
    Parameter* parameter;
    Rows rows;     // of which this replica holds the optimizer state
    Rows own;      // this replica's share, and no other's: counted in norms, written to checkpoints
  };
  // Of every parameter, frozen ones too.
  std::span<const Share> shares() const { return shares_; }

  // After the last backward: kept gradients are whole, over replicas and the ranks that share a replica's model (Model::reduce_gradients).
  void reduce_gradients();
  // After the optimizer, or where kept values have changed otherwise. With Overlap::with_compute they are on their way until their unit is used.
  void gather_values();
  // Waits for them all.
  void finish_values();
  int64_t bucket_count() const { return static_cast<int64_t>(buckets_.size()); }

  void want_values(const Unit& unit, UnitPass pass) override;
  void want_gradients(const Unit& unit) override;
  void gradients_done(const Unit& unit) override;
  void zero_gradients(const Unit& unit) override;
  void last_backward(const Unit& unit) override;

 private:
  struct Key;
  struct Held {
    Bucket bucket;
    int64_t units = 0, units_done = 0;  // with parameters in it; of these, through with the step's last backward pass
  };
  void add_bucket(std::vector<Parameter*> parameters, const Key& key);
  void make_buckets();
  void start_next_values();
  void bring_values(Bucket& bucket);

  Settings settings_;
  Groups groups_;
  std::vector<Model*> chunks_;
  std::deque<Held> buckets_;
  std::map<const Unit*, std::vector<Held*>> of_unit_;  // that hold parameters of it
  std::map<const Parameter*, const Unit*> unit_of_;
  std::vector<const Unit*> resident_;                  // whose values are here or on their way, where shared out
  std::vector<Bucket*> going_;                         // reductions under way
  std::deque<Bucket*> to_gather_;                      // updated values that have not started, first those of the first buckets
  std::set<Bucket*> gathering_;                        // that have
  std::set<const Unit*> last_;                         // in the step's last backward pass
  std::vector<Share> shares_;
};

}  // namespace ponte
