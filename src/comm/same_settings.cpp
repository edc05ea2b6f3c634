// Rank 0's settings travel to all, and each rank holds its own against them.
#include "comm/same_settings.h"

#include "base/errors.h"
#include "comm/ranks.h"

namespace ponte {

void agree_on_settings(Group& group, const std::vector<std::string>& settings, const char* whose) {
  if (group.size() == 1) return;
  const std::vector<std::string> first = split(gather_text(group, group.rank() == 0 ? join(settings, "\n") : "")[0], '\n');
  agree(group, [&] {
    std::vector<std::string> wrong;
    for (size_t i = 0; i < settings.size(); ++i)
      if (i >= first.size() || settings[i] != first[i]) wrong.push_back(format("{}, on rank 0 {}", settings[i], i < first.size() ? first[i] : "no such key"));
    require(wrong.empty() && first.size() == settings.size(), "{} not rank 0's: {}", whose, join(wrong, "; "));
  });
}

}  // namespace ponte
