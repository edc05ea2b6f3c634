#include "base/progress.h"

#include <unistd.h>

#include <algorithm>
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

// UTF-8 characters, each one column wide.
int64_t columns_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string cut(std::string_view text, int64_t columns) {
  if (columns_of(text) <= columns) return std::string(text);
  std::string out;
  int64_t taken = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool begins = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (begins && ++taken >= columns) break;
    out += text[i];
  }
  return columns > 0 ? out + "…" : out;
}

// Names out of files end up in messages: what would steer a terminal, or is no UTF-8, is spelt out.
std::string harmless(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    size_t length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (length > text.size() - i) length = 0;
    for (size_t k = 1; k < length; ++k)
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80) length = 0;
    const bool control = length == 1 ? (lead < 0x20 && lead != '\n' && lead != '\t') || lead == 0x7F
                                     : length == 2 && lead == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (length > 0 && !control) {
      out += text.substr(i, length);
      i += length;
      continue;
    }
    constexpr std::string_view digits = "0123456789abcdef";
    out += {'\\', 'x', digits[lead >> 4], digits[lead & 15]};
    ++i;
  }
  return out;
}

}  // namespace

std::string progress_line(std::string_view label, std::optional<double> share, std::string_view text, int64_t columns) {
  constexpr int64_t kWidest = 24, kNarrowest = 6;
  const int64_t room = std::max<int64_t>(columns - 1, 1), others = columns_of(label) + columns_of(text) + (share ? 3 : 2);
  std::string out = std::string(label) + "  ";
  if (share) {
    const int64_t width = std::clamp(room - others, kNarrowest, kWidest), full = static_cast<int64_t>(*share * static_cast<double>(width) + 0.5);
    for (int64_t i = 0; i < width; ++i) out += i < full ? "━" : "─";
    out += " ";
  }
  return cut(out.append(text), room);
}

void log_line(std::string_view text) {
  std::lock_guard lock(screen());
  Progress::hide_for_message();
  put(harmless(text) + "\n");
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

void Progress::already_done(uint64_t amount) {
  done_ += amount;
  before_ += amount;
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
  const uint64_t before = before_;  // first: done_ is never behind it
  const Pace pace{.done = done_, .before = before, .total = total_,
                  .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count()};
  std::string line = total_ ? format("{:3.0f} %  {} of {}", pace.share() * 100, count(pace.done, unit_), count(total_, unit_)) : count(pace.done, unit_);
  if (!noun_.empty()) line += " " + noun_;
  line += format("  {}/s", amount(pace.rate(), unit_));
  if (last) line += format("  in {}", human_seconds(pace.seconds));
  else if (const auto left = pace.seconds_left()) line += format("  {} left", human_seconds(*left));
  if (!note_.empty()) line += "  " + note_;
  if (terminal_) put("\r\033[K" + progress_line(label_, total_ ? std::optional(pace.share()) : std::nullopt, line, terminal_columns()) + (last ? "\n" : ""));
  else put(label_ + "  " + line + "\n");
  bar_on_screen = terminal_ && !last;
}

}  // namespace ponte
