// The bytes of an event file, record by record; that TensorBoard itself reads them is tests/oracle/test_tensorboard.py.
#include "format/tfevents.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/errors.h"
#include "base/file.h"

namespace ponte {
namespace {

class EventFileTest : public testing::Test {
 protected:
  fs::path directory_ = fs::temp_directory_path() / format("ponte_tfevents_{}", getpid());
  void SetUp() override { fs::remove_all(directory_); }
  void TearDown() override { fs::remove_all(directory_); }
};

template <class T>
T load(std::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// The payloads of a TFRecord file, both checksums of each record checked.
std::vector<std::string> records(const fs::path& file) {
  const std::string bytes = read_file(file);
  std::vector<std::string> out;
  for (size_t at = 0; at < bytes.size();) {
    const uint64_t length = load<uint64_t>(bytes, at);
    EXPECT_EQ(load<uint32_t>(bytes, at + 8), masked_crc32c(std::string_view(bytes).substr(at, 8)));
    out.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(load<uint32_t>(bytes, at + 12 + length), masked_crc32c(out.back()));
    at += 16 + length;
  }
  return out;
}

TEST(Crc32c, KnownValues) {
  // RFC 3720, section B.4, and the check value of the polynomial.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST_F(EventFileTest, RecordsAreEventsByteForByte) {
  EventFile events(directory_ / "a" / "b", 300);
  const Scalar scalars[] = {{"lm loss", 2.5}, {"lr", -1}};
  events.add_scalars(301, scalars);
  const std::vector<std::string> found = records(events.path());
  ASSERT_EQ(found.size(), 3u);
  const auto after_time = [](const std::string& event) {
    EXPECT_EQ(event[0], '\x09');  // field 1, fixed 64: wall time
    return event.substr(9);
  };
  using namespace std::string_literals;
  EXPECT_EQ(after_time(found[0]), "\x10\x00\x1a\x0d"s + "brain.Event:2");
  EXPECT_EQ(after_time(found[1]), "\x10\xac\x02\x3a\x02\x08\x01"s);  // step 300, session log, status START
  EXPECT_EQ(after_time(found[2]), "\x10\xad\x02\x2a\x1b"s + "\x0a\x0e\x0a\x07lm loss\x15\x00\x00\x20\x40"s + "\x0a\x09\x0a\x02lr\x15\x00\x00\x80\xbf"s);
}

TEST_F(EventFileTest, NamesTheFolderItCannotWrite) {
  fs::create_directories(directory_);
  write_file_atomically(directory_ / "file", "x");
  try {
    EventFile events(directory_ / "file" / "sub", std::nullopt);
    FAIL() << "created a folder below a file";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find((directory_ / "file").string()), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace ponte
