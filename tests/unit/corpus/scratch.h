// A folder that goes with the test, and small files in it.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "base/errors.h"
#include "base/file.h"

namespace ponte {

class Scratch {
 public:
  Scratch() {
    std::string pattern = (fs::temp_directory_path() / "ponte-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) fail_errno("mkdtemp");
    path_ = pattern;
  }
  ~Scratch() { fs::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }
  fs::path write(const std::string& name, std::string_view content) const {
    fs::create_directories((path_ / name).parent_path());
    OutputFile out(path_ / name);
    out.append(content);
    out.close();
    return path_ / name;
  }

 private:
  fs::path path_;
};

// The message of the UserError `body` throws; a failure of the test when it throws none.
template <class Body>
std::string user_error(const Body& body) {
  try {
    body();
  } catch (const UserError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

#define EXPECT_USER_ERROR(expression, part) \
  EXPECT_NE(::ponte::user_error([&] { expression; }).find(part), std::string::npos) << ::ponte::user_error([&] { expression; })

}  // namespace ponte
