#include "parallel/pipeline.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <deque>
#include <map>

#include "base/errors.h"
#include "kernels/device.h"
#include "layout/pipeline_schedule.h"

namespace ponte {
namespace {

using Key = std::tuple<Pass, int64_t, int64_t>;  // pass, micro-batch, chunk of the receiver

// The messages between this rank and one other. A rank sends in the order of its schedule, so the receiver knows what comes next; what comes before it
// is wanted is kept.
class Channel {
 public:
  Channel(const PipelineSizes& sizes, int64_t rank, int64_t peer, const std::vector<PipelineAction>& peers_actions) : peer_(peer) {
    PipelineMessage m;
    for (size_t i = 0; i < peers_actions.size(); ++i) {
      if (message_out_of(sizes, peer, peers_actions[i], m) && m.peer == rank) incoming_.push_back({{m.pass, m.micro_batch, m.chunk}, i});
      if (message_into(sizes, peer, peers_actions[i], m) && m.peer == rank) read_at_[{m.pass, m.micro_batch, m.chunk}] = i;
    }
  }

  void send(Group& group, const Key& key, const at::Tensor& tensor) {
    const at::Tensor message = tensor.detach().contiguous();
    sent_.push_back({read_at_.at(key), group.transfer(std::vector<Transfer>{{Transfer::Direction::send, peer_, message}}), message});
  }

  template <class Empty>
  at::Tensor receive(Group& group, const Key& key, Empty empty) {
    while (!kept_.contains(key)) {
      PONTE_ASSERT(!incoming_.empty());
      const auto [next, sent_at] = incoming_.front();
      incoming_.pop_front();
      at::Tensor message = empty(std::get<1>(next));
      group.transfer(std::vector<Transfer>{{Transfer::Direction::receive, peer_, message}})->wait();
      kept_[next] = message;
      // The other side has read everything its schedule puts before this message.
      while (!sent_.empty() && sent_.front().read_at <= sent_at) forget_first();
    }
    at::Tensor out = std::move(kept_.at(key));
    kept_.erase(key);
    return out;
  }

  void finish() {
    while (!sent_.empty()) forget_first();
    PONTE_ASSERT(incoming_.empty() && kept_.empty());
  }

 private:
  struct Sent {
    size_t read_at;
    std::unique_ptr<PendingTransfers> pending;
    at::Tensor message;
  };
  void forget_first() {
    sent_.front().pending->wait();
    sent_.pop_front();
  }
  int64_t peer_;
  std::deque<std::pair<Key, size_t>> incoming_;  // and where in the other's schedule they are sent
  std::map<Key, size_t> read_at_;
  std::map<Key, at::Tensor> kept_;
  std::deque<Sent> sent_;
};

class Runner {
 public:
  Runner(std::span<Model* const> chunks, std::span<const Batch> batches, const StepOptions& options, double gradient_scale)
      : chunks_(chunks), batches_(batches), options_(options), gradient_scale_(gradient_scale), group_(*chunks[0]->groups().pipeline),
        sizes_{group_.size(), static_cast<int64_t>(chunks.size()), static_cast<int64_t>(batches.size())} {
    const auto schedule = at::GradMode::is_enabled() ? pipeline_schedule : pipeline_forward_schedule;
    actions_ = schedule(sizes_, group_.rank());
    backward_passes_.assign(chunks.size(), sizes_.micro_batches);
    const auto connect = [&](int64_t peer) {
      if (peer != group_.rank() && !channels_.contains(peer)) channels_.emplace(peer, Channel(sizes_, group_.rank(), peer, schedule(sizes_, peer)));
    };
    connect((group_.rank() + 1) % sizes_.ranks);
    connect((group_.rank() + sizes_.ranks - 1) % sizes_.ranks);
  }

  // The sum of this rank's losses. Waits for the device once, at the end.
  double run() {
    for (const PipelineAction& action : actions_) {
      if (action.pass == Pass::forward) forward(action);
      else backward(action);
    }
    for (auto& [peer, channel] : channels_) channel.finish();
    return loss_.defined() ? in_host_memory(loss_).item<double>() : 0.0;
  }

 private:
  struct Held {
    at::Tensor input_SH, output;
  };

  at::Tensor incoming(const PipelineAction& action) {
    PipelineMessage m;
    if (!message_into(sizes_, group_.rank(), action, m)) return {};
    return channels_.at(m.peer).receive(group_, {m.pass, m.micro_batch, m.chunk}, [&](int64_t micro_batch) {
      const ModelOptions& o = chunks_[0]->options();
      return at::empty(chunks_[0]->activation_shape(batches_[micro_batch]), at::TensorOptions(o.device).dtype(o.dtype));
    });
  }
  void outgoing(const PipelineAction& action, const at::Tensor& tensor) {
    PipelineMessage m;
    if (message_out_of(sizes_, group_.rank(), action, m)) channels_.at(m.peer).send(group_, {m.pass, m.micro_batch, m.chunk}, tensor);
  }

  void forward(const PipelineAction& action) {
    at::Tensor input_SH = incoming(action);
    if (input_SH.defined() && at::GradMode::is_enabled()) input_SH.requires_grad_(true);
    StageOutput out = chunks_[action.chunk]->forward_stage(batches_[action.micro_batch], input_SH, gradient_scale_);
    if (out.loss.sum.defined()) {
      const at::Tensor sum = out.loss.sum.to(at::kDouble);
      loss_ = loss_.defined() ? loss_ + sum : sum;
      if (options_.on_loss) options_.on_loss(static_cast<size_t>(action.micro_batch), out.loss);
    }
    outgoing(action, out.hidden_SH);
    if (at::GradMode::is_enabled()) held_[{action.micro_batch, action.chunk}] = {input_SH, out.loss.sum.defined() ? out.loss.scaled : out.hidden_SH};
  }

  void backward(const PipelineAction& action) {
    const auto place = held_.find({action.micro_batch, action.chunk});
    const Held held = std::move(place->second);
    held_.erase(place);
    const at::Tensor gradient = incoming(action);
    if (--backward_passes_[action.chunk] == 0) chunks_[action.chunk]->last_backward();
    torch::autograd::backward({held.output}, gradient.defined() ? std::vector<at::Tensor>{gradient} : std::vector<at::Tensor>{});
    chunks_[action.chunk]->end_backward();
    if (held.input_SH.defined()) outgoing(action, held.input_SH.grad());
  }

  std::span<Model* const> chunks_;
  std::span<const Batch> batches_;
  const StepOptions& options_;
  double gradient_scale_;
  at::Tensor loss_;  // fp64
  Group& group_;
  PipelineSizes sizes_;
  std::vector<PipelineAction> actions_;
  std::map<int64_t, Channel> channels_;
  std::map<std::pair<int64_t, int64_t>, Held> held_;
  std::vector<int64_t> backward_passes_;  // still to come, by chunk
};

double valid_tokens(const Batch& batch) {
  return batch.loss_mask_BT.defined() ? batch.loss_mask_BT.sum(at::kDouble).item<double>() : static_cast<double>(batch.tokens_BT.numel());
}

double summed(double value, std::initializer_list<Group*> groups) {
  at::Tensor sum = at::full({1}, value, at::kDouble);
  for (Group* group : groups) group->all_reduce(sum, ReduceOp::sum);
  return sum.item<double>();
}

}  // namespace

StepLoss run_micro_batches(std::span<Model* const> chunks, std::span<const Batch> batches, const StepOptions& options) {
  PONTE_ASSERT(!chunks.empty() && !batches.empty());
  const Groups& groups = chunks[0]->groups();
  StepLoss out;
  for (const Batch& batch : batches) out.valid_tokens += valid_tokens(batch);
  out.valid_tokens = summed(out.valid_tokens, {groups.data.get()});
  // A step whose every label is masked has loss zero.
  const double own = Runner(chunks, batches, options, options.loss_scale / std::max(out.valid_tokens, 1.0)).run();
  out.sum = summed(own, {groups.data_context.get(), groups.pipeline.get()});
  return out;
}

}  // namespace ponte
