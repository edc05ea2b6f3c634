// A progress bar with rate and time left, on stderr. On a terminal it redraws one line; elsewhere it prints a line every 30 s. Nothing is
// shown for work that ends within a second. advance() is safe from several threads.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ponte {

class Progress {
 public:
  enum class Unit { items, bytes };
  // total 0: unknown, no time left is shown.
  Progress(std::string label, uint64_t total, Unit unit = Unit::items, std::string noun = "");
  ~Progress();  // finishes
  void already_done(uint64_t amount);  // as by an earlier process: shown as done, no part of the rate
  void advance(uint64_t amount);
  void set_note(std::string note);  // shown at the end of the line, e.g. "3.2 M tokens/s"
  void finish();
  static void hide_for_message();  // used by log_line: clears the bar's line; the next advance redraws it

 private:
  void draw(bool last);
  std::string label_, noun_, note_;
  uint64_t total_;
  Unit unit_;
  bool terminal_, shown_ = false, finished_ = false;
  std::atomic<uint64_t> done_{0}, before_{0};
  std::atomic<int64_t> next_draw_ms_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// How far work is that had `before` of its `total` done (0: unknown) when the clock started, and how fast it goes since.
struct Pace {
  uint64_t done = 0, before = 0, total = 0;
  double seconds = 0;
  double share() const { return total ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total)) : 0; }
  double rate() const { return static_cast<double>(done - before) / std::max(seconds, 1e-3); }
  std::optional<double> seconds_left() const {
    if (total == 0 || rate() == 0) return std::nullopt;
    return static_cast<double>(total - std::min(done, total)) / rate();
  }
};

// What the bar shows on a terminal of so many columns, the last of which stays free: a line that wraps could not be redrawn. The bar (none without a
// share) shrinks first, then the end is cut.
std::string progress_line(std::string_view label, std::optional<double> share, std::string_view text, int64_t columns);

}  // namespace ponte
