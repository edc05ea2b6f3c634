#include "base/wrap.h"

#include <algorithm>

namespace ponte {
namespace {

size_t continuation_column(std::string_view line, size_t width) {
  size_t column = std::min(line.find_first_not_of(' '), line.size());
  for (size_t i = column + 2; i < std::min(line.size(), width / 2); ++i)
    if (line[i] != ' ' && line[i - 1] == ' ' && line[i - 2] == ' ') column = i;
  return column;
}

void append_wrapped(std::string& out, std::string_view line, size_t width) {
  const std::string indent(continuation_column(line, width), ' ');
  size_t start = indent.size();
  std::string_view before = line.substr(0, start);
  while (start + width - indent.size() < line.size()) {
    size_t end = line.rfind(' ', start + width - indent.size());
    if (end == std::string_view::npos || end <= start) end = line.find(' ', start + width - indent.size());
    if (end == std::string_view::npos) break;
    out.append(before).append(line.substr(start, end - start)).append("\n");
    before = indent;
    start = end + 1;
  }
  out.append(before).append(line.substr(start));
}

}  // namespace

std::string wrapped(std::string_view text, size_t width) {
  std::string out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    append_wrapped(out, text.substr(0, end), width);
    if (end < text.size()) out += '\n';
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

}  // namespace ponte
