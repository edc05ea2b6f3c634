// The equality tests see a broken collective: each kind of collective of each group is left out, and scaled, and groups are exchanged; every time the run must
// differ from one process's. docs/parallelism.md lists them.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "equal/training_runs.h"

namespace ponte::equality {
namespace {

enum class Fault { left_out, scaled };

// A group of which one collective gives wrong results of the right shape.
class BrokenGroup final : public Group {
 public:
  BrokenGroup(std::shared_ptr<Group> group, Collective broken, Fault fault) : group_(std::move(group)), broken_(broken), fault_(fault) {}
  int64_t rank() const override { return group_->rank(); }
  int64_t size() const override { return group_->size(); }
  void barrier() override { group_->barrier(); }

 protected:
  void do_all_reduce(at::Tensor& tensor, ReduceOp op) override {
    if (is(Collective::all_reduce, Fault::left_out)) return;
    group_->all_reduce(tensor, op);
    if (op == ReduceOp::sum) tensor = scaled(tensor, Collective::all_reduce);
  }
  at::Tensor do_all_gather(const at::Tensor& tensor) override {
    if (is(Collective::all_gather, Fault::left_out)) return at::cat(std::vector<at::Tensor>(static_cast<size_t>(size()), tensor));
    return scaled(group_->all_gather(tensor), Collective::all_gather);
  }
  at::Tensor do_reduce_scatter_sum(const at::Tensor& tensor) override {
    if (is(Collective::reduce_scatter, Fault::left_out)) return tensor.chunk(size())[rank()].clone();
    return scaled(group_->reduce_scatter_sum(tensor), Collective::reduce_scatter);
  }
  void do_broadcast(at::Tensor& tensor, int64_t root) override { group_->broadcast(tensor, root); }
  at::Tensor do_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    return scaled(group_->all_gather_rows(is(Collective::all_gather, Fault::left_out) ? at::zeros_like(tensor) : tensor, rows), Collective::all_gather);
  }
  at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    if (is(Collective::reduce_scatter, Fault::left_out)) return tensor.split_with_sizes(at::IntArrayRef(rows.data(), rows.size()))[rank()].clone();
    return scaled(group_->reduce_scatter_sum_rows(tensor, rows), Collective::reduce_scatter);
  }
  at::Tensor do_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) override {
    return scaled(group_->all_to_all(is(Collective::all_to_all, Fault::left_out) ? at::zeros_like(tensor) : tensor, sent, received), Collective::all_to_all);
  }
  std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) override {
    std::vector<Transfer> changed(transfers.begin(), transfers.end());
    for (Transfer& t : changed) {
      if (t.direction != Transfer::Direction::send) continue;
      t.tensor = is(Collective::transfer, Fault::left_out) ? at::zeros_like(t.tensor) : scaled(t.tensor, Collective::transfer);
    }
    return group_->transfer(changed);
  }

 private:
  bool is(Collective kind, Fault fault) const { return broken_ == kind && fault_ == fault; }
  at::Tensor scaled(const at::Tensor& tensor, Collective kind) const { return is(kind, Fault::scaled) && tensor.is_floating_point() ? tensor * 1.001 : tensor; }
  std::shared_ptr<Group> group_;
  Collective broken_;
  Fault fault_;
};

struct Mutation {
  const char* name;
  Kind kind;
  std::function<void(Layout&)> layout;
  std::function<void(Groups&)> alter;
};

void PrintTo(const Mutation& m, std::ostream* out) { *out << m.name; }

std::function<void(Groups&)> broken(GroupKind kind, Collective collective, Fault fault) {
  return [=](Groups& groups) {
    if (groups[kind]->size() > 1) groups[kind] = std::make_shared<BrokenGroup>(groups[kind], collective, fault);
  };
}

void with_sizes(Layout& l) {
  ModelConfig& c = l.config;
  c.tensor_model_parallel_size = l.mesh.tensor;
  c.pipeline_model_parallel_size = l.mesh.pipeline;
  c.context_parallel_size = l.mesh.context;
  c.expert_model_parallel_size = l.mesh.expert;
  c.expert_tensor_parallel_size = l.mesh.expert_tensor;
}

std::vector<Mutation> mutations() {
  using enum Collective;
  using enum Fault;
  using K = GroupKind;
  std::vector<Mutation> out;
  const auto both = [&](const char* left, const char* scale, Kind kind, const std::function<void(Layout&)>& layout, GroupKind group, Collective collective) {
    out.push_back({left, kind, layout, broken(group, collective, left_out)});
    out.push_back({scale, kind, layout, broken(group, collective, scaled)});
  };
  const auto tp = [](Layout& l) { l.mesh.tensor = 2; };
  const auto sp = [](Layout& l) { l.mesh.tensor = 2, l.config.sequence_parallel = true; };
  const auto pp = [](Layout& l) { l.mesh.pipeline = 2; };
  const auto dp = [](Layout& l) { l.mesh.data = 2; };
  const auto cp = [](const char* type) { return [type](Layout& l) { l.mesh.context = 2, l.config.cp_comm_type = type; }; };
  const auto ep = [](Layout& l) { l.mesh.data = 4, l.mesh.expert = 2; };
  const auto etp = [](Layout& l) { l.mesh.data = 2, l.mesh.expert_tensor = 2; };
  const auto gathering = [](Layout& l) { l.mesh.data = 2, l.mesh.expert = 2, l.config.moe_token_dispatcher_type = "allgather"; };
  both("tensor_all_reduce_left_out", "tensor_all_reduce_scaled", Kind::dense_untied, tp, K::tensor, all_reduce);
  both("sequence_all_gather_left_out", "sequence_all_gather_scaled", Kind::dense_untied, sp, K::tensor, all_gather);
  both("sequence_reduce_scatter_left_out", "sequence_reduce_scatter_scaled", Kind::dense_untied, sp, K::tensor, reduce_scatter);
  both("stage_messages_left_out", "stage_messages_scaled", Kind::dense_untied, pp, K::pipeline, transfer);
  both("stage_loss_left_out", "stage_loss_scaled", Kind::dense_untied, pp, K::pipeline, all_reduce);
  both("tied_embeddings_left_out", "tied_embeddings_scaled", Kind::dense_tied, pp, K::embedding, all_reduce);
  both("copied_embeddings_left_out", "copied_embeddings_scaled", Kind::hybrid, pp, K::embedding, all_reduce);
  both("reports_of_stages_left_out", "reports_of_stages_scaled", Kind::experts, pp, K::pipeline, all_reduce);
  both("valid_tokens_left_out", "valid_tokens_scaled", Kind::dense_untied, dp, K::data, all_reduce);
  const auto distributed = [](Layout& l) { l.mesh.data = 2, l.replicas.sharding = Sharding::optimizer; };
  both("replicas_sum_left_out", "replicas_sum_scaled", Kind::dense_untied, dp, K::data_context, reduce_scatter);
  both("replicas_gather_left_out", "replicas_gather_scaled", Kind::dense_untied, dp, K::data_context, all_gather);
  both("distributed_sum_left_out", "distributed_sum_scaled", Kind::dense_untied, distributed, K::data_context_shares, reduce_scatter);
  both("distributed_values_left_out", "distributed_values_scaled", Kind::dense_untied, distributed, K::data_context_shares, all_gather);
  const auto sharded = [](Sharding sharding) { return [sharding](Layout& l) { l.mesh.data = 2, l.replicas.sharding = sharding; }; };
  const auto copies = [](Copies kind) {
    return [kind](Layout& l) { l.mesh.data = 4, l.mesh.optimizer_instances = 2, l.replicas.sharding = Sharding::parameters, l.replicas.copies = kind; };
  };
  const auto sharded_experts = [](Layout& l) { l.mesh.data = 4, l.mesh.expert = 2, l.replicas.sharding = Sharding::parameters; };
  both("sharded_gradients_left_out", "sharded_gradients_scaled", Kind::dense_untied, sharded(Sharding::gradients), K::data_context_shares, reduce_scatter);
  both("sharded_gradients_values_left_out", "sharded_gradients_values_scaled", Kind::dense_untied, sharded(Sharding::gradients), K::data_context_shares,
       all_gather);
  both("sharded_parameters_sum_left_out", "sharded_parameters_sum_scaled", Kind::dense_untied, sharded(Sharding::parameters), K::data_context_shares,
       reduce_scatter);
  both("sharded_parameters_left_out", "sharded_parameters_scaled", Kind::dense_untied, sharded(Sharding::parameters), K::data_context_shares, all_gather);
  both("sharded_experts_sum_left_out", "sharded_experts_sum_scaled", Kind::experts, sharded_experts, K::expert_data_shares, reduce_scatter);
  both("sharded_experts_left_out", "sharded_experts_scaled", Kind::experts, sharded_experts, K::expert_data_shares, all_gather);
  both("copies_sum_left_out", "copies_sum_scaled", Kind::dense_untied, copies(Copies::keep_all), K::data_context_copies, all_reduce);
  both("copies_shares_left_out", "copies_shares_scaled", Kind::dense_untied, copies(Copies::share_optimizer), K::data_context_copies, reduce_scatter);
  both("copies_values_left_out", "copies_values_scaled", Kind::dense_untied, copies(Copies::share_optimizer), K::data_context_copies, all_gather);
  both("ring_messages_left_out", "ring_messages_scaled", Kind::dense_untied, cp("p2p"), K::context, transfer);
  both("context_all_gather_left_out", "context_all_gather_scaled", Kind::dense_untied, cp("all_gather"), K::context, all_gather);
  both("context_reduce_scatter_left_out", "context_reduce_scatter_scaled", Kind::dense_untied, cp("all_gather"), K::context, reduce_scatter);
  both("context_all_to_all_left_out", "context_all_to_all_scaled", Kind::dense_untied, cp("a2a"), K::context, all_to_all);
  both("chunk_states_left_out", "chunk_states_scaled", Kind::hybrid, cp("p2p"), K::context, all_gather);
  both("chunk_states_gradient_left_out", "chunk_states_gradient_scaled", Kind::hybrid, cp("p2p"), K::context, reduce_scatter);
  both("delta_heads_left_out", "delta_heads_scaled", Kind::hybrid, cp("a2a"), K::context, all_to_all);
  const auto levels = [](Layout& l) { l.mesh.context = 4, l.mesh.context_inner = 2, l.config.cp_comm_type = "a2a+p2p"; };
  both("neighbours_all_to_all_left_out", "neighbours_all_to_all_scaled", Kind::dense_untied, levels, K::context_inner, all_to_all);
  both("ring_of_neighbours_left_out", "ring_of_neighbours_scaled", Kind::dense_untied, levels, K::context_outer, transfer);
  out.push_back({"neighbours_documents_left_out", Kind::dense_untied, levels, broken(K::context_inner, all_gather, left_out)});
  both("balancing_counts_left_out", "balancing_counts_scaled", Kind::experts, cp("p2p"), K::context, all_reduce);
  both("balancing_counts_of_sequence_shards_left_out", "balancing_counts_of_sequence_shards_scaled", Kind::experts, sp, K::tensor_context, all_reduce);
  both("expert_all_to_all_left_out", "expert_all_to_all_scaled", Kind::experts, ep, K::expert, all_to_all);
  both("expert_replicas_sum_left_out", "expert_replicas_sum_scaled", Kind::experts, ep, K::expert_data, reduce_scatter);
  both("expert_tensor_all_gather_left_out", "expert_tensor_all_gather_scaled", Kind::experts, etp, K::expert_tensor, all_gather);
  both("expert_tensor_reduce_scatter_left_out", "expert_tensor_reduce_scatter_scaled", Kind::experts, etp, K::expert_tensor, reduce_scatter);
  both("experts_all_gather_left_out", "experts_all_gather_scaled", Kind::experts, gathering, K::expert_tensor_expert, all_gather);
  both("experts_reduce_scatter_left_out", "experts_reduce_scatter_scaled", Kind::experts, gathering, K::expert_tensor_expert, reduce_scatter);
  const auto cp_dp = [](Layout& l) { l.mesh.context = 2, l.mesh.data = 2; };
  const auto sp_cp = [](Layout& l) { l.mesh.tensor = 2, l.mesh.context = 2, l.config.sequence_parallel = true; };
  out.push_back({"replicas_without_context", Kind::dense_untied, cp_dp, [](Groups& g) { g.data_context = g.data; }});
  out.push_back({"tokens_of_the_step_over_context_too", Kind::dense_untied, cp_dp, [](Groups& g) { g.data = g.data_context; }});
  out.push_back({"experts_summed_as_dense", Kind::experts, ep, [](Groups& g) { g.expert_data = g.data_context; }});
  out.push_back({"sharded_over_data_only", Kind::dense_untied,
                 [](Layout& l) { l.mesh.context = 2, l.mesh.data = 2, l.replicas.sharding = Sharding::parameters; },
                 [](Groups& g) { g.data_context_shares = g.data; }});
  out.push_back({"experts_sharded_as_dense", Kind::experts, sharded_experts, [](Groups& g) { g.expert_data_shares = g.data_context_shares; }});
  out.push_back({"copies_exchanged_with_shares", Kind::dense_untied, copies(Copies::keep_all), [](Groups& g) { g.data_context_copies = g.data_context; }});
  out.push_back({"balancing_over_context_only", Kind::experts, sp_cp, [](Groups& g) { g.tensor_context = g.context; }});
  return out;
}

class Mutations : public testing::TestWithParam<Mutation> {};

TEST_P(Mutations, AreSeen) {
  const Mutation& m = GetParam();
  Layout alone{{}, tiny(m.kind)}, many = alone;
  m.layout(many);
  with_sizes(many);
  const Outcome one = train(alone, {}, at::kDouble);
  ASSERT_EQ(differences(train(many, {}, at::kDouble), one, 1e-12), std::vector<std::string>());  // the fault alone makes the difference
  std::vector<std::string> seen;
  try {
    seen = differences(train(many, {}, at::kDouble, m.alter), one, 1e-9);
  } catch (const std::exception& stopped) {
    seen = {stopped.what()};
  }
  EXPECT_NE(seen, std::vector<std::string>()) << "nothing noticed";
}

INSTANTIATE_TEST_SUITE_P(Table, Mutations, testing::ValuesIn(mutations()), [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace ponte::equality
