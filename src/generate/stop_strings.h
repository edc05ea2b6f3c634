// Text that ends at the first stop string: pieces go in as they are decoded, and come out once no stop string can begin in them.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);  // empty strings are an error

  // The text that has become certain. After a stop string was met: what lies before it, and later pieces are ignored.
  std::string push(std::string_view piece);
  std::string finish();  // what was held back
  bool met() const { return met_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool met_ = false;
};

}  // namespace ponte
