// Process ids repeat: in containers at once, on a machine sooner or later. Field 22 of /proc/<pid>/stat (proc(5)), the start in ticks, tells them apart.
#include "base/writer.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "base/format.h"
#include "base/hash.h"

namespace ponte {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string place() {
  std::error_code ignored;
  const std::string name = first_line("/proc/sys/kernel/random/boot_id") + fs::read_symlink("/proc/self/ns/pid", ignored).string();
  return content_hash(std::as_bytes(std::span(name.data(), name.size()))).substr(0, 8);
}

struct ProcessFacts {
  char state = '?';
  std::string start = "0";
};

std::optional<ProcessFacts> facts_of(const std::string& pid) {
  const std::string line = first_line("/proc/" + pid + "/stat");
  const size_t name_end = line.rfind(") ");  // a program's name may hold anything
  if (name_end == std::string::npos) return std::nullopt;
  const std::vector<std::string> fields = split(std::string_view(line).substr(name_end + 2), ' ');  // from field 3 on
  if (fields.size() < 20 || fields[0].empty()) return std::nullopt;
  return ProcessFacts{fields[0][0], fields[19]};
}

bool digits(std::string_view text, std::string_view allowed) { return !text.empty() && text.find_first_not_of(allowed) == std::string_view::npos; }

struct Tag {
  std::string place, pid, start;
};

std::optional<Tag> parse(std::string_view text) {
  const std::vector<std::string> parts = split(text, '-');
  if (parts.size() != 3 || parts[0].size() != 8 || parts[1].size() > 9) return std::nullopt;
  if (!digits(parts[0], "0123456789abcdef") || !digits(parts[1], "0123456789") || !digits(parts[2], "0123456789")) return std::nullopt;
  return Tag{parts[0], parts[1], parts[2]};
}

// Killed, but nobody has asked for its exit status; the last thread is gone too.
bool is_zombie(const std::string& pid, char state) {
  if (state != 'Z' && state != 'X') return false;
  std::error_code error;
  const fs::directory_iterator threads("/proc/" + pid + "/task", error);
  return error || std::distance(begin(threads), end(threads)) <= 1;
}

}  // namespace

std::string writer_tag() {
  const std::string pid = format("{}", ::getpid());
  return place() + "-" + pid + "-" + facts_of(pid).value_or(ProcessFacts{}).start;
}

bool is_writer_tag(std::string_view text) { return parse(text).has_value(); }

WriterState writer_state(std::string_view text) {
  const std::optional<Tag> tag = parse(text);
  if (!tag || tag->place != place()) return WriterState::unknown;
  if (::kill(static_cast<pid_t>(std::stol(tag->pid)), 0) != 0 && errno == ESRCH) return WriterState::gone;
  const std::optional<ProcessFacts> now = facts_of(tag->pid);
  return now && (now->start != tag->start || is_zombie(tag->pid, now->state)) ? WriterState::gone : WriterState::alive;
}

}  // namespace ponte
