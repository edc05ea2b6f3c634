#include "parallel/data_parallel.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {

// What parameters of one bucket have in common.
struct DataParallel::Key {
  bool expert, trained;
  at::ScalarType type;
  const Unit* unit;       // where buckets are units'
  const Parameter* alone; // embeddings that two stages hold are cut alike on both
  bool operator==(const Key&) const = default;
};

DataParallel::DataParallel(std::span<Model* const> chunks, const Groups& groups, const Settings& settings)
    : settings_(settings), groups_(groups), chunks_(chunks.begin(), chunks.end()) {
  make_buckets();
  for (Model* chunk : chunks_)
    for (Unit& unit : chunk->units()) {
      unit.keeper = this;
      of_unit_.try_emplace(&unit);
    }
}

DataParallel::~DataParallel() {
  for (Model* chunk : chunks_)
    for (Unit& unit : chunk->units()) unit.keeper = nullptr;
}

// Parameters join in order, until a bucket is full.
void DataParallel::make_buckets() {
  struct Open {
    Key key;
    std::vector<Parameter*> parameters;
    int64_t elements;
  };
  std::vector<Open> open;
  const bool by_unit = settings_.sharding >= Sharding::gradients;
  for (Model* chunk : chunks_)
    for (const Unit& unit : chunk->units())
      for (Parameter* p : unit.parameters) {
        unit_of_[p] = &unit;
        const bool on_two_stages = groups_.embedding->size() > 1 && p->name == "embedding.word_embeddings.weight";
        const Key key{p->rule->expert >= 0, p->value.requires_grad(), p->value.scalar_type(), by_unit ? &unit : nullptr, on_two_stages ? p : nullptr};
        auto place = std::find_if(open.begin(), open.end(), [&](const Open& o) { return o.key == key; });
        if (place == open.end()) place = open.insert(open.end(), {key, {}, 0});
        if (!by_unit && place->elements > 0 && place->elements + p->value.numel() > settings_.bucket_elements) {
          add_bucket(std::move(place->parameters), key);
          *place = {key, {}, 0};
        }
        place->parameters.push_back(p);
        place->elements += p->value.numel();
      }
  for (Open& o : open) add_bucket(std::move(o.parameters), o.key);
}

void DataParallel::add_bucket(std::vector<Parameter*> parameters, const Key& key) {
  // Frozen vectors, such as routers' balancing biases, are updated outside the optimizer by every rank alike.
  const bool whole = !key.trained && std::all_of(parameters.begin(), parameters.end(), [](const Parameter* p) { return p->value.dim() == 1; });
  const Sharding sharding = whole ? Sharding::nothing : settings_.sharding;
  const bool in_shares = sharding != Sharding::nothing;
  const std::shared_ptr<Group> sharers = key.expert ? (in_shares ? groups_.expert_data_shares : groups_.expert_data)
                                                    : (in_shares ? groups_.data_context_shares : groups_.data_context);
  const std::shared_ptr<Group> copies = !in_shares ? single_group() : key.expert ? groups_.expert_data_copies : groups_.data_context_copies;
  const Bucket::Settings settings{sharding, settings_.reduction, settings_.copies, chunks_[0]->options().device};
  Held& held = buckets_.emplace_back(Bucket(std::move(parameters), sharers, copies, settings));
  for (const Bucket::Member& m : held.bucket.members()) {
    shares_.push_back({m.parameter, held.bucket.updated(m), m.own});
    std::vector<Held*>& list = of_unit_[unit_of_.at(m.parameter)];
    if (std::find(list.begin(), list.end(), &held) != list.end()) continue;
    list.push_back(&held);
    ++held.units;
  }
}

void DataParallel::reduce_gradients() {
  for (const Unit* unit : resident_)
    for (Held* held : of_unit_.at(unit)) held->bucket.release_values();
  resident_.clear();
  for (Held& held : buckets_) {
    if (!held.bucket.is_trained()) continue;
    held.bucket.finish_reduction();
    held.bucket.start_reduction();
    if (settings_.gradients == Overlap::none) held.bucket.finish_reduction();
  }
  going_.clear();
  last_.clear();
  for (Held& held : buckets_) {
    if (!held.bucket.is_trained()) continue;
    bring_values(held.bucket);
    held.bucket.finish_reduction();
    held.bucket.reduce_over_copies();
    held.units_done = 0;
  }
  for (Model* chunk : chunks_) chunk->reduce_gradients();
}

void DataParallel::gather_values() {
  for (Held& held : buckets_) {
    if (!held.bucket.is_trained()) continue;
    if (settings_.sharding == Sharding::parameters) held.bucket.start_updated_values();  // the rest comes when it is wanted
    else to_gather_.push_back(&held.bucket);
  }
  if (settings_.values == Overlap::none) return finish_values();
  constexpr int kAhead = 2;
  for (int i = 0; i < kAhead; ++i) start_next_values();
}

void DataParallel::start_next_values() {
  if (to_gather_.empty()) return;
  Bucket* next = to_gather_.front();
  to_gather_.pop_front();
  next->start_updated_values();
  gathering_.insert(next);
}

// Buckets go in one order on every rank; for each that is here another one is sent on its way.
void DataParallel::bring_values(Bucket& bucket) {
  while (std::find(to_gather_.begin(), to_gather_.end(), &bucket) != to_gather_.end()) start_next_values();
  if (gathering_.erase(&bucket) == 0) return;
  bucket.finish_values();
  start_next_values();
}

void DataParallel::finish_values() {
  if (settings_.sharding == Sharding::parameters) return;
  for (Held& held : buckets_) bring_values(held.bucket);
}

// Where values are shared out, one unit's are here at a time, and the next one's on their way: those of the unit before stay until another's are wanted, which
// spares the last layer's, and a recomputed one's, second way.
void DataParallel::want_values(const Unit& unit, UnitPass pass) {
  const std::vector<Held*>& wanted = of_unit_.at(&unit);
  if (settings_.sharding == Sharding::parameters) {
    const Unit* next = pass == UnitPass::forward ? unit.following : pass == UnitPass::backward ? unit.preceding : nullptr;
    if (settings_.values == Overlap::none) next = nullptr;
    for (const Unit* other : resident_)
      if (other != &unit && other != next)
        for (Held* held : of_unit_.at(other)) held->bucket.release_values();
    resident_ = {&unit};
    for (Held* held : wanted) held->bucket.start_values();
    for (Held* held : wanted) held->bucket.finish_values();
    if (!next) return;
    resident_.push_back(next);
    for (Held* held : of_unit_.at(next)) held->bucket.start_values();
    return;
  }
  for (Held* held : wanted) bring_values(held->bucket);
}

void DataParallel::want_gradients(const Unit& unit) {
  if (settings_.sharding < Sharding::gradients) return;
  for (Held* held : of_unit_.at(&unit))
    if (held->bucket.is_trained()) held->bucket.open_gradients();
}

void DataParallel::last_backward(const Unit& unit) { last_.insert(&unit); }

// Where gradients are shared out they go after every backward pass, else after the step's last.
void DataParallel::gradients_done(const Unit& unit) {
  const bool is_last = last_.erase(&unit) > 0;
  const size_t before = going_.size();
  for (Held* held : of_unit_.at(&unit)) {
    Bucket& bucket = held->bucket;
    if (!bucket.is_trained()) continue;
    if (settings_.sharding < Sharding::gradients && !(is_last && ++held->units_done == held->units && settings_.gradients == Overlap::with_compute)) continue;
    bucket.start_reduction();
    going_.push_back(&bucket);
  }
  if (going_.size() == before) return;
  // Those that went before have had this backward pass to travel: so few are under way at a time.
  const auto end = settings_.gradients == Overlap::none ? going_.end() : going_.begin() + static_cast<int64_t>(before);
  std::for_each(going_.begin(), end, [](Bucket* bucket) { bucket->finish_reduction(); });
  going_.erase(going_.begin(), end);
}

void DataParallel::zero_gradients(const Unit& unit) {
  for (Held* held : of_unit_.at(&unit))
    if (held->bucket.is_trained()) held->bucket.zero_gradients();
}

}  // namespace ponte
