// Checksums against published values, and of joined parts.
#include "format/crc32.h"

#include <zlib.h>

#include <random>

#include "format_testing.h"

namespace ponte {
namespace {

TEST(Crc32, EqualsZlibForEveryLengthAndAlignment) {
  std::mt19937 random(1);
  std::string data(5000, '\0');
  for (char& c : data) c = static_cast<char>(random());
  for (size_t size = 0; size < 2100; ++size) {
    const size_t begin = random() % 64;
    const uint32_t start = size % 3 ? static_cast<uint32_t>(random()) : 0;
    const auto bytes = bytes_of(data).subspan(begin, size);
    ASSERT_EQ(crc32_update(start, bytes), ::crc32(start, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(size))) << size;
  }
}

TEST(Crc32, KnownValue) { EXPECT_EQ(crc32_update(0, bytes_of("123456789")), 0xcbf43926u); }

TEST(Crc32, PartsJoin) {
  const std::string data(3000, 'x');
  const uint32_t whole = crc32_update(0, bytes_of(data));
  for (const size_t cut : {0u, 1u, 64u, 777u, 2999u, 3000u}) {
    const uint32_t first = crc32_update(0, bytes_of(data).first(cut)), second = crc32_update(0, bytes_of(data).subspan(cut));
    EXPECT_EQ(crc32_joined(first, second, data.size() - cut), whole) << cut;
  }
}

}  // namespace
}  // namespace ponte
