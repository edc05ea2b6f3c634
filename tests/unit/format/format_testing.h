// Helpers of the format tests: bytes from text, expected errors, temporary folders.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "base/errors.h"
#include "base/file.h"

namespace ponte {

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

template <class T>
std::string raw(T v) {
  return std::string(reinterpret_cast<const char*>(&v), sizeof v);
}

// Runs `body`; it must throw a UserError whose message contains `part`.
template <class Body>
void expect_error(std::string_view part, Body body) {
  try {
    body();
    ADD_FAILURE() << "no error; wanted one with: " << part;
  } catch (const UserError& e) {
    EXPECT_NE(std::string_view(e.what()).find(part), std::string_view::npos) << "found: " << e.what() << "\nwanted: " << part;
  }
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "ponte-format-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  fs::path operator/(std::string_view name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline fs::path golden(std::string_view name) { return fs::path(PONTE_GOLDEN_DIR) / name; }

}  // namespace ponte
