#include "comm/life.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {
namespace {

using namespace std::chrono_literals;

std::string sign_key(int64_t rank) { return format("life/{}", rank); }
constexpr const char* kFinding = "life/finding";

std::string text(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }
std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }

std::string where(const std::string& phase, const std::string& collective) {
  return format("phase '{}', {}", phase, collective.empty() ? std::string("in no collective") : "waiting in " + collective);
}

}  // namespace

Life::Life(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size, Milliseconds timeout)
    : store_(std::move(store)), rank_(rank), size_(size), interval_(std::clamp<Milliseconds>(timeout / 20, 100ms, 2000ms)),
      patience_(std::max<Milliseconds>(10 * interval_, 3000ms)) {
  write(0);
  thread_ = std::thread([this] { run(); });
}

Life::~Life() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Life::run() {
  for (int64_t beat = 1;; ++beat) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, interval_, [this] { return stopping_; })) return;
    lock.unlock();
    try {
      write(beat);
    } catch (const std::exception&) {  // the store is gone: the collectives will say what that means
    }
  }
}

void Life::write(int64_t beat) {
  std::string sign;
  {
    const std::lock_guard lock(mutex_);
    sign = format("{}\n{}\n{}", beat, phase_, collective_);
  }
  const std::lock_guard lock(store_mutex_);
  store_->set(sign_key(rank_), bytes(sign));
}

void Life::phase(std::string name) {
  const std::lock_guard lock(mutex_);
  phase_ = std::move(name);
}

Life::Waiting::Waiting(Life& life, std::string collective) : life_(life) {
  const std::lock_guard lock(life_.mutex_);
  life_.collective_ = std::move(collective);
}

Life::Waiting::~Waiting() {
  const std::lock_guard lock(life_.mutex_);
  life_.collective_.clear();
}

std::optional<Life::Sign> Life::read(c10d::Store& store, int64_t rank) {
  if (!store.check({sign_key(rank)})) return std::nullopt;
  const std::vector<std::string> lines = split(text(store.get(sign_key(rank))), '\n');
  if (lines.size() != 3) return std::nullopt;
  return Sign{lines[0], lines[1], lines[2]};
}

std::optional<Life::Sign> Life::read(int64_t rank) {
  const std::lock_guard lock(store_mutex_);
  return read(*store_, rank);
}

std::string Life::record_end(c10d::Store& store, int64_t rank, std::string_view how) {
  const std::optional<Sign> last = read(store, rank);
  const std::string finding = format("rank {} {}{}", rank, how, last ? ", last seen in " + where(last->phase, last->collective) : "");
  return text(store.compareSet(kFinding, {}, bytes(finding)));
}

std::string Life::first_finding(const std::string& mine) {
  const std::lock_guard lock(store_mutex_);
  if (mine.empty()) return store_->check({kFinding}) ? text(store_->get(kFinding)) : "";
  return text(store_->compareSet(kFinding, {}, bytes(mine)));
}

std::string Life::examine(std::string_view collective, std::span<const int64_t> members) {
  std::vector<std::optional<Sign>> before;
  for (int64_t r = 0; r < size_; ++r) before.push_back(read(r));
  const auto deadline = std::chrono::steady_clock::now() + patience_;
  while (std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(interval_);
    if (const std::string found = first_finding(""); !found.empty()) return found;
  }
  std::vector<std::string> silent, elsewhere;
  for (int64_t r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    const std::optional<Sign> now = read(r);
    const bool member = std::find(members.begin(), members.end(), r) != members.end();
    if (!now) silent.push_back(format("rank {} gave no sign of life at all", r));
    else if (before[r] && before[r]->beat == now->beat)
      silent.push_back(format("rank {} has died or stopped: its last sign of life was in {}", r, where(now->phase, now->collective)));
    else if (member && now->collective != collective) elsewhere.push_back(format("rank {} did not come: it is in {}", r, where(now->phase, now->collective)));
  }
  const std::vector<std::string>& causes = silent.empty() ? elsewhere : silent;
  return causes.empty() ? "the connection broke, though every rank gives signs of life" : join(causes, "; ");
}

std::string Life::why_lost(std::string_view collective, std::span<const int64_t> members) {
  std::string phase;
  {
    const std::lock_guard lock(mutex_);
    phase = phase_;
  }
  std::string cause;
  try {
    cause = first_finding("");
    if (cause.empty()) cause = first_finding(examine(collective, members));
  } catch (const std::exception&) {
    cause = "the store of this run does not answer: the rank that holds it (rank 0, or the launcher) has died or stopped";
  }
  return format("{}. Rank {} waited in {} (phase '{}')", cause, rank_, collective, phase);
}

void Life::failed(std::string_view message) {
  try {
    const std::string phase = [&] {
      const std::lock_guard lock(mutex_);
      return phase_;
    }();
    first_finding(format("rank {} ended with an error in phase '{}': {}", rank_, phase, message));
  } catch (const std::exception&) {  // nobody left to tell
  }
}

}  // namespace ponte
