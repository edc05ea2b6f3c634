#include "convert/accounting.h"

#include "base/errors.h"

namespace ponte {
namespace {

constexpr size_t kListed = 20;

void append_list(std::string& text, const char* what, const std::vector<std::string>& names) {
  if (names.empty()) return;
  text += format("\n  {} {}:", names.size(), what);
  for (size_t i = 0; i < std::min(names.size(), kListed); ++i) text += "\n    " + names[i];
  if (names.size() > kListed) text += format("\n    ... and {} more", names.size() - kListed);
}

}  // namespace

void Accounting::mismatch(const std::string& name, const Shape& found, const Shape& wanted) {
  if (mismatched_.insert(name).second) problems_.push_back(format("{}: shape {}, wanted {}", name, found, wanted));
}

void Accounting::settle() const {
  if (missing_.empty() && unexpected_.empty() && problems_.empty()) return;
  std::string text = subject_ + ": its tensors are not those of the model its configuration describes";
  append_list(text, "missing", missing_);
  append_list(text, "unexpected", unexpected_);
  append_list(text, "wrong", problems_);
  fail("{}", text);
}

}  // namespace ponte
