#include "comm/call_comparison.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {
namespace {

std::vector<const GroupCall*> chosen(const GroupCalls& calls, const std::function<bool(const GroupCall&)>& wanted) {
  std::vector<const GroupCall*> out;
  for (const GroupCall& call : calls.calls)
    if (wanted(call)) out.push_back(&call);
  return out;
}

bool same_but_rows(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  return a.size() == b.size() && std::equal(a.begin() + 1, a.end(), b.begin() + 1);
}

// Calls of ranks in these places of their group.
bool fit(const GroupCall& a, int64_t place_a, const GroupCall& b, int64_t place_b) {
  if (a.collective != b.collective || a.type != b.type || a.rows.size() != b.rows.size()) return false;
  const auto i = static_cast<size_t>(place_a), j = static_cast<size_t>(place_b);
  if (a.collective == Collective::all_to_all) return same_but_rows(a.shape, b.shape) && a.rows[j] == b.received[i] && b.rows[i] == a.received[j];
  if (!a.rows.empty()) return a.rows == b.rows && same_but_rows(a.shape, b.shape);
  return a.shape == b.shape && a.peer == b.peer;
}

std::string text_of(const std::vector<const GroupCall*>& calls, size_t i) { return i < calls.size() ? text_of(*calls[i]) : "nothing more"; }

}  // namespace

void CallComparison::add(const LoneRank& rank) {
  for (const auto& calls : rank.calls()) {
    std::vector<Side>& sides = groups_[calls->ranks];
    const auto place = std::find(calls->ranks.begin(), calls->ranks.end(), rank.rank()) - calls->ranks.begin();
    const Side now{rank.rank(), place, calls};
    for (const Side& other : sides) {
      compare_collectives(other, now);
      compare_messages(other, now);
      compare_messages(now, other);
    }
    sides.push_back(now);
    if (sides.size() == calls->ranks.size()) groups_.erase(calls->ranks);
  }
}

void CallComparison::compare_collectives(const Side& a, const Side& b) {
  const auto collective = [](const GroupCall& call) { return call.collective != Collective::transfer; };
  const auto of_a = chosen(*a.calls, collective), of_b = chosen(*b.calls, collective);
  for (size_t i = 0; i < std::max(of_a.size(), of_b.size()); ++i, ++compared_) {
    if (i < of_a.size() && i < of_b.size() && fit(*of_a[i], a.place, *of_b[i], b.place)) continue;
    differences_.push_back(format("{} ranks {}, collective {}: rank {} asks {}, rank {} {}", a.calls->group, a.calls->ranks, i + 1, a.rank, text_of(of_a, i),
                                  b.rank, text_of(of_b, i)));
    return;
  }
}

void CallComparison::compare_messages(const Side& from, const Side& to) {
  const auto sent = chosen(*from.calls, [&](const GroupCall& c) {
    return c.collective == Collective::transfer && c.direction == Transfer::Direction::send && c.peer == to.place;
  });
  const auto received = chosen(*to.calls, [&](const GroupCall& c) {
    return c.collective == Collective::transfer && c.direction == Transfer::Direction::receive && c.peer == from.place;
  });
  for (size_t i = 0; i < std::max(sent.size(), received.size()); ++i, ++compared_) {
    if (i < sent.size() && i < received.size() && sent[i]->type == received[i]->type && sent[i]->shape == received[i]->shape) continue;
    differences_.push_back(format("{} ranks {}, message {} from rank {} to rank {}: sent is {}, expected {}", from.calls->group, from.calls->ranks, i + 1,
                                  from.rank, to.rank, text_of(sent, i), text_of(received, i)));
    return;
  }
}

}  // namespace ponte
