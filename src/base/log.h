// Messages to people, on stderr: stdout belongs to results. A message never lands inside a progress bar's line.
#pragma once
#include "base/format.h"

namespace ponte {

void log_line(std::string_view text);

template <class... Args>
void log_info(std::string_view pattern, const Args&... args) {
  log_line(format(pattern, args...));
}
template <class... Args>
void log_warning(std::string_view pattern, const Args&... args) {
  log_line("warning: " + format(pattern, args...));
}

}  // namespace ponte
