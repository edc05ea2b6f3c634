// The writer thread: order, bounds, faults.
#include "convert/write_queue.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr size_t kBlock = 1 << 20;

std::vector<std::byte> block(int64_t number) {
  std::vector<std::byte> out(kBlock);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(static_cast<size_t>(number) * 31 + i % 251);
  return out;
}

// Enough for several early starts of the disk, to two files, from blocks that stay and blocks that are handed over.
TEST(WriteQueue, WritesEveryBlockWhereItBelongs) {
  const fs::path folder = fs::temp_directory_path() / ("write_queue_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  constexpr int64_t kBlocks = 80;
  {
    std::vector<OutputFile> files;
    for (const char* name : {"a", "b"}) files.emplace_back(folder / name);
    const std::vector<std::byte> fixed = block(0);
    std::vector<std::byte> scratch;
    WriteQueue queue;
    for (int64_t i = kBlocks - 1; i >= 0; --i) {
      OutputFile& file = files[static_cast<size_t>(i % 2)];
      const auto offset = static_cast<uint64_t>(i / 2) * kBlock;
      if (i % 10 == 0) {
        queue.write(file, offset, fixed, nullptr);
        continue;
      }
      const auto content = block(i);
      if (scratch.size() < kBlock) scratch.resize(kBlock);
      std::copy(content.begin(), content.end(), scratch.begin());
      queue.write(file, offset, std::span(scratch).first(kBlock), &scratch);
    }
    queue.finish();
  }
  for (int64_t i = 0; i < kBlocks; ++i) {
    const MappedFile file(folder / (i % 2 ? "b" : "a"));
    const auto found = file.bytes().subspan(static_cast<size_t>(i / 2) * kBlock, kBlock);
    const auto wanted = block(i % 10 == 0 ? 0 : i);
    ASSERT_TRUE(std::equal(found.begin(), found.end(), wanted.begin())) << i;
  }
  fs::remove_all(folder);
}

TEST(WriteQueue, AFullDiskReachesTheCaller) {
  OutputFile full("/dev/full");
  const std::vector<std::byte> bytes(kBlock);
  WriteQueue queue;
  const auto write_all = [&] {
    for (uint64_t i = 0; i < 100; ++i) queue.write(full, 0, bytes, nullptr);
    queue.finish();
  };
  try {
    write_all();
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_STREQ(error.what(), "cannot write /dev/full: No space left on device");
  }
}

}  // namespace
}  // namespace ponte
