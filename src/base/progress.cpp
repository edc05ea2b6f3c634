#include "base/progress.h"

#include <unistd.h>

#include <mutex>

#include "base/environment.h"
#include "base/format.h"
#include "base/log.h"

namespace ponte {
namespace {

std::mutex& screen() {
  static std::mutex mutex;
  return mutex;
}

void put(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data() + done, text.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

bool bar_on_screen = false;  // guarded by screen()

std::string amount(double value, Progress::Unit unit) {
  if (unit == Progress::Unit::bytes) return human_bytes(static_cast<uint64_t>(value));
  return value < 10 ? format("{:.1f}", value) : format("{:.0f}", value);
}

std::string count(uint64_t value, Progress::Unit unit) {
  return unit == Progress::Unit::bytes ? human_bytes(value) : format("{}", value);
}

}  // namespace

void log_line(std::string_view text) {
  std::lock_guard lock(screen());
  Progress::hide_for_message();
  put(std::string(text) + "\n");
}

void Progress::hide_for_message() {
  if (bar_on_screen) put("\r\033[K");
  bar_on_screen = false;
}

Progress::Progress(std::string label, uint64_t total, Unit unit, std::string noun)
    : label_(std::move(label)), noun_(std::move(noun)), total_(total), unit_(unit), terminal_(stderr_is_terminal()), next_draw_ms_(terminal_ ? 1000 : 30000) {}

Progress::~Progress() { finish(); }

void Progress::advance(uint64_t amount) {
  done_ += amount;
  const int64_t now = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start_).count();
  int64_t due = next_draw_ms_;
  if (now >= due && next_draw_ms_.compare_exchange_strong(due, now + (terminal_ ? 100 : 30000))) draw(false);
}

void Progress::set_note(std::string note) {
  std::lock_guard lock(screen());
  note_ = std::move(note);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (shown_) draw(true);
}

void Progress::draw(bool last) {
  std::lock_guard lock(screen());
  shown_ = true;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const uint64_t done = done_;
  const double rate = static_cast<double>(done) / std::max(seconds, 1e-3);
  std::string line = label_ + "  ";
  if (total_) {
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
    if (terminal_) {
      const int width = 24, full = static_cast<int>(share * width + 0.5);
      for (int i = 0; i < width; ++i) line += i < full ? "━" : "─";
    }
    line += format(" {:3.0f} %  {} of {}", share * 100, count(done, unit_), count(total_, unit_));
  } else {
    line += count(done, unit_);
  }
  if (!noun_.empty()) line += " " + noun_;
  line += format("  {}/s", amount(rate, unit_));
  if (last) line += format("  in {}", human_seconds(seconds));
  else if (total_ && rate > 0) line += format("  {} left", human_seconds(static_cast<double>(total_ - std::min(done, total_)) / rate));
  if (!note_.empty()) line += "  " + note_;
  put(terminal_ ? "\r\033[K" + line + (last ? "\n" : "") : line + "\n");
  bar_on_screen = terminal_ && !last;
}

}  // namespace ponte
