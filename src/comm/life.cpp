#include "comm/life.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

#include "base/errors.h"
#include "comm/patience.h"

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

struct Sign {
  std::string beat, phase, collective;
};

std::optional<Sign> sign_from(const std::vector<uint8_t>& written) {
  const std::vector<std::string> lines = split(text(written), '\n');
  if (lines.size() != 3) return std::nullopt;
  return Sign{lines[0], lines[1], lines[2]};
}

std::optional<Sign> read(c10d::Store& store, int64_t rank) {
  return store.check({sign_key(rank)}) ? sign_from(store.get(sign_key(rank))) : std::nullopt;
}

}  // namespace

// What threads share that may outlive this object, where the store is silent.
struct Life::Board {
  const c10::intrusive_ptr<c10d::Store> store;
  const int64_t rank, size;
  const Milliseconds interval, patience;
  std::mutex store_mutex, mutex;
  std::condition_variable changed;
  std::string phase = "starting", collective;
  bool stopping = false;

  Board(c10::intrusive_ptr<c10d::Store> s, int64_t r, int64_t n, Milliseconds i, Milliseconds p)
      : store(std::move(s)), rank(r), size(n), interval(i), patience(p) {}

  std::string phase_now() {
    const std::lock_guard lock(mutex);
    return phase;
  }

  void write(int64_t beat) {
    std::string sign;
    {
      const std::lock_guard lock(mutex);
      sign = format("{}\n{}\n{}", beat, phase, collective);
    }
    const std::lock_guard lock(store_mutex);
    store->set(sign_key(rank), bytes(sign));
  }

  void write_beats() {
    for (int64_t beat = 1;; ++beat) {
      std::unique_lock lock(mutex);
      if (changed.wait_for(lock, interval, [this] { return stopping; })) return;
      lock.unlock();
      try {
        write(beat);
      } catch (const std::exception&) {  // the store is gone: the collectives will say what that means
      }
    }
  }

  // In one question to the store where all have written: with thousands of ranks thousands ask.
  std::vector<std::optional<Sign>> read_all() {
    const std::lock_guard lock(store_mutex);
    std::vector<std::string> keys;
    for (int64_t r = 0; r < size; ++r) keys.push_back(sign_key(r));
    std::vector<std::optional<Sign>> out;
    if (store->check(keys)) {
      for (const std::vector<uint8_t>& written : store->multiGet(keys)) out.push_back(sign_from(written));
    } else {
      for (int64_t r = 0; r < size; ++r) out.push_back(read(*store, r));
    }
    return out;
  }

  std::string first_finding(const std::string& mine) {
    const std::lock_guard lock(store_mutex);
    if (mine.empty()) return store->check({kFinding}) ? text(store->get(kFinding)) : "";
    return text(store->compareSet(kFinding, {}, bytes(mine)));
  }

  std::string examine(const std::string& collective, const std::vector<int64_t>& members) {
    const std::vector<std::optional<Sign>> before = read_all();
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(interval);
      if (const std::string found = first_finding(""); !found.empty()) return found;
    }
    const std::vector<std::optional<Sign>> after = read_all();
    std::vector<std::string> silent, elsewhere;
    for (int64_t r = 0; r < size; ++r) {
      if (r == rank) continue;
      const std::optional<Sign>& now = after[static_cast<size_t>(r)];
      const std::optional<Sign>& then = before[static_cast<size_t>(r)];
      const bool member = std::find(members.begin(), members.end(), r) != members.end();
      if (!now) silent.push_back(format("rank {} gave no sign of life at all", r));
      else if (then && then->beat == now->beat)
        silent.push_back(format("rank {} has died or stopped: its last sign of life was in {}", r, where(now->phase, now->collective)));
      else if (member && now->collective != collective) elsewhere.push_back(format("rank {} did not come: it is in {}", r, where(now->phase, now->collective)));
    }
    const std::vector<std::string>& causes = silent.empty() ? elsewhere : silent;
    return causes.empty() ? "the connection broke, though every rank gives signs of life" : join(causes, "; ");
  }

  // The first to find something has found it for all.
  std::string cause(const std::string& collective, const std::vector<int64_t>& members) {
    const std::string found = first_finding("");
    return found.empty() ? first_finding(examine(collective, members)) : found;
  }
};

Life::Life(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size, Milliseconds timeout)
    : interval_(std::clamp<Milliseconds>(timeout / 20, 100ms, 2000ms)), patience_(std::max<Milliseconds>(10 * interval_, 3000ms)),
      board_(std::make_shared<Board>(std::move(store), rank, size, interval_, patience_)) {
  board_->write(0);
  std::packaged_task<void()> beats([board = board_] { board->write_beats(); });
  ended_ = beats.get_future();
  thread_ = std::thread(std::move(beats));
}

Life::~Life() {
  {
    const std::lock_guard lock(board_->mutex);
    board_->stopping = true;
  }
  board_->changed.notify_all();
  if (ended_.wait_for(silent_ ? 0ms : patience_) == std::future_status::ready) thread_.join();
  else thread_.detach();  // it waits for a silent store, or behind one who does
}

void Life::phase(std::string name) {
  const std::lock_guard lock(board_->mutex);
  board_->phase = std::move(name);
}

Life::Waiting::Waiting(Life& life, std::string collective) : life_(life) {
  const std::lock_guard lock(life_.board_->mutex);
  life_.board_->collective = std::move(collective);
}

Life::Waiting::~Waiting() {
  const std::lock_guard lock(life_.board_->mutex);
  life_.board_->collective.clear();
}

std::string Life::record_end(c10d::Store& store, int64_t rank, std::string_view how) {
  const std::optional<Sign> last = read(store, rank);
  const std::string finding = format("rank {} {}{}", rank, how, last ? ", last seen in " + where(last->phase, last->collective) : "");
  return text(store.compareSet(kFinding, {}, bytes(finding)));
}

std::string Life::why_lost(std::string_view collective, std::span<const int64_t> members) {
  std::optional<std::string> cause;
  try {
    cause = answer_within<std::string>(2 * patience_, [board = board_, name = std::string(collective), ranks = std::vector(members.begin(), members.end())] {
      return board->cause(name, ranks);
    });
    silent_ = !cause;
  } catch (const std::exception&) {  // it answers that it is gone
  }
  if (!cause) cause = "the store of this run does not answer: the rank that holds it (rank 0, or the launcher) has died or stopped";
  return format("{}. Rank {} waited in {} (phase '{}')", *cause, board_->rank, collective, board_->phase_now());
}

void Life::failed(std::string_view message) {
  try {
    if (silent_) return;
    const std::optional<std::string> answer = answer_within<std::string>(patience_, [board = board_, said = std::string(message)] {
      return board->first_finding(format("rank {} ended with an error in phase '{}': {}", board->rank, board->phase_now(), said));
    });
    silent_ = !answer;
  } catch (const std::exception&) {  // nobody left to tell
  }
}

}  // namespace ponte
