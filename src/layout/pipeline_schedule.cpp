#include "layout/pipeline_schedule.h"

#include <algorithm>
#include <map>

#include "base/errors.h"

namespace ponte {
namespace {

void check(const PipelineSizes& s, int64_t rank) {
  require(s.ranks > 0 && s.chunks > 0 && s.micro_batches > 0, "pipeline: {} ranks, {} chunks, {} micro-batches: each must be at least 1", s.ranks, s.chunks,
          s.micro_batches);
  require(s.chunks == 1 || s.ranks > 1, "pipeline: {} chunks want more than one rank", s.chunks);
  require(s.chunks == 1 || s.micro_batches % s.ranks == 0,
          "pipeline: {} micro-batches of a step over {} ranks with {} chunks each: the interleaved schedule wants "
          "a multiple of the ranks", s.micro_batches, s.ranks, s.chunks);
  PONTE_ASSERT(rank >= 0 && rank < s.ranks);
}

// The order in which a rank's (micro-batch, chunk) pairs go forward: `ranks` micro-batches through one chunk, then the next. Backward passes take the
// chunks from the last to the first.
std::vector<PipelineAction> passes(const PipelineSizes& s, Pass pass) {
  const int64_t group = s.chunks == 1 ? s.micro_batches : s.ranks;
  std::vector<PipelineAction> out;
  for (int64_t first = 0; first < s.micro_batches; first += group)
    for (int64_t c = 0; c < s.chunks; ++c)
      for (int64_t m = first; m < std::min(first + group, s.micro_batches); ++m)
        out.push_back({pass, m, pass == Pass::forward ? c : s.chunks - 1 - c});
  return out;
}

int64_t warm_up(const PipelineSizes& s, int64_t rank) {
  const int64_t after = s.ranks - rank - 1;
  return std::min(s.chunks == 1 ? after : 2 * after + (s.chunks - 1) * s.ranks, s.micro_batches * s.chunks);
}

// The neighbouring stage of (rank, chunk), `step` +1 or -1 along the forward pass.
bool neighbour(const PipelineSizes& s, int64_t rank, int64_t chunk, int64_t step, int64_t& other_rank, int64_t& other_chunk) {
  const int64_t stage = chunk * s.ranks + rank + step;
  if (stage < 0 || stage >= s.ranks * s.chunks) return false;
  other_rank = stage % s.ranks;
  other_chunk = stage / s.ranks;
  return true;
}

}  // namespace

std::vector<PipelineAction> pipeline_schedule(const PipelineSizes& s, int64_t rank) {
  check(s, rank);
  const std::vector<PipelineAction> forward = passes(s, Pass::forward), backward = passes(s, Pass::backward);
  const auto ahead = static_cast<size_t>(warm_up(s, rank));
  std::vector<PipelineAction> out(forward.begin(), forward.begin() + static_cast<std::ptrdiff_t>(ahead));
  for (size_t i = 0; i < backward.size(); ++i) {
    if (i + ahead < forward.size()) out.push_back(forward[i + ahead]);
    out.push_back(backward[i]);
  }
  return out;
}

std::vector<PipelineAction> pipeline_forward_schedule(const PipelineSizes& s, int64_t rank) {
  check({s.ranks, s.chunks, s.chunks == 1 ? s.micro_batches : s.ranks}, rank);
  return passes(s, Pass::forward);
}

bool message_into(const PipelineSizes& s, int64_t rank, const PipelineAction& a, PipelineMessage& out) {
  int64_t other_chunk = 0;
  out = {a.pass, a.micro_batch, a.chunk, 0};
  return neighbour(s, rank, a.chunk, a.pass == Pass::forward ? -1 : 1, out.peer, other_chunk);
}

bool message_out_of(const PipelineSizes& s, int64_t rank, const PipelineAction& a, PipelineMessage& out) {
  out = {a.pass, a.micro_batch, 0, 0};
  return neighbour(s, rank, a.chunk, a.pass == Pass::forward ? 1 : -1, out.peer, out.chunk);
}

PipelineSimulation simulate(const PipelineSizes& s, double forward, double backward) {
  std::vector<std::vector<PipelineAction>> lists;
  for (int64_t r = 0; r < s.ranks; ++r) lists.push_back(pipeline_schedule(s, r));
  using Key = std::tuple<bool, int64_t, int64_t, int64_t>;  // pass, micro-batch, rank, chunk
  std::map<Key, double> ended;
  std::vector<size_t> next(lists.size());
  std::vector<double> clock(lists.size());
  std::vector<int64_t> now(lists.size());
  PipelineSimulation out;
  out.held.resize(lists.size());
  for (bool moved = true; moved;) {
    moved = false;
    for (int64_t r = 0; r < s.ranks; ++r)
      for (; next[r] < lists[r].size(); ++next[r], moved = true) {
        const PipelineAction& a = lists[r][next[r]];
        const bool is_forward = a.pass == Pass::forward;
        double start = clock[r];
        if (!is_forward) PONTE_ASSERT(ended.contains({true, a.micro_batch, r, a.chunk}));
        int64_t other = 0, chunk = 0;
        if (neighbour(s, r, a.chunk, is_forward ? -1 : 1, other, chunk)) {
          const auto input = ended.find({is_forward, a.micro_batch, other, chunk});
          if (input == ended.end()) break;
          start = std::max(start, input->second);
        }
        clock[r] = start + (is_forward ? forward : backward);
        ended[{is_forward, a.micro_batch, r, a.chunk}] = clock[r];
        now[r] += is_forward ? 1 : -1;
        out.held[r] = std::max(out.held[r], now[r]);
      }
  }
  out.finished = true;
  for (size_t r = 0; r < lists.size(); ++r) out.finished = out.finished && next[r] == lists[r].size();
  out.time = *std::max_element(clock.begin(), clock.end());
  out.bubble = 1 - static_cast<double>(s.micro_batches * s.chunks) * (forward + backward) / out.time;
  return out;
}

}  // namespace ponte
