// Files that are whole or not there, and what a failed write says.
#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "base/errors.h"
#include "base/hash.h"

namespace ponte {
namespace {

class Files : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ponte-file-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(root_); }
  size_t entries() const { return static_cast<size_t>(std::distance(fs::directory_iterator(root_), {})); }
  fs::path root_;
};

void put(const fs::path& file, std::string_view text) { std::ofstream(file) << text; }

TEST_F(Files, MappedFileSeesTheBytesAndRejectsWhatIsNotAFile) {
  put(root_ / "f", "hello");
  put(root_ / "empty", "");
  EXPECT_EQ(MappedFile(root_ / "f").bytes().size(), 5u);
  EXPECT_TRUE(MappedFile(root_ / "empty").bytes().empty());
  EXPECT_THROW(MappedFile{root_}, UserError);
  EXPECT_THROW(MappedFile{root_ / "absent"}, UserError);
}

TEST_F(Files, AWriteThatFailsNamesTheFile) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  rlimit small{64, old.rlim_max};
  OutputFile out(root_ / "big");
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string text(1000, 'x');
  std::string message;
  try {
    out.append(text);
  } catch (const UserError& e) {
    message = e.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_NE(message.find((root_ / "big").string()), std::string::npos) << message;
}

TEST_F(Files, AtomicWriteReplacesAndKeepsTheOldOnFailure) {
  write_file_atomically(root_ / "t", "one");
  write_file_atomically(root_ / "t", "two");
  EXPECT_EQ(read_file(root_ / "t"), "two");
  EXPECT_EQ(entries(), 1u);
  fs::create_directory(root_ / "dir");
  EXPECT_THROW(write_file_atomically(root_ / "dir", "x"), UserError);
  EXPECT_EQ(entries(), 2u);
}

TEST(Hash, KnownValues) {
  const std::string abc = "abc";
  const auto bytes = std::as_bytes(std::span(abc.data(), abc.size()));
  EXPECT_EQ(sha256(bytes), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(content_hash(bytes), "06b05ab6733a618578af5f94892f3950");
  ContentHash parts;
  parts.update(bytes.subspan(0, 1));
  parts.update(bytes.subspan(1));
  EXPECT_EQ(parts.hex(), content_hash(bytes));
}

}  // namespace
}  // namespace ponte
