// A progress bar with rate and time left, on stderr. On a terminal it redraws one line; elsewhere it prints a line every 30 s. Nothing is
// shown for work that ends within a second. advance() is safe from several threads.
#pragma once
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
  std::atomic<uint64_t> done_{0};
  std::atomic<int64_t> next_draw_ms_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// What the bar shows on a terminal of so many columns, the last of which stays free: a line that wraps could not be redrawn. The bar (none without a
// share) shrinks first, then the end is cut.
std::string progress_line(std::string_view label, std::optional<double> share, std::string_view text, int64_t columns);

}  // namespace ponte
