#include "format/jsonl.h"

#include <zlib.h>
#include <zstd.h>

#include "scratch.h"

namespace ponte {
namespace {

std::string gzip(const std::string& text) {
  z_stream s{};
  EXPECT_EQ(deflateInit2(&s, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&s, text.size()) + 64, '\0');
  s.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  s.avail_in = static_cast<uInt>(text.size());
  s.next_out = reinterpret_cast<Bytef*>(out.data());
  s.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&s, Z_FINISH), Z_STREAM_END);
  out.resize(s.total_out);
  deflateEnd(&s);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

struct Line {
  std::string text;
  int64_t number;
  bool operator==(const Line&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Line& line) { return out << line.number << ":" << line.text.substr(0, 40); }

std::vector<Line> lines_of(LineReader& reader) {
  std::vector<Line> out;
  for (LineBlock block; reader.next(block);) {
    int64_t number = block.first_line;
    if (block.oversized) out.push_back({"oversized " + std::to_string(block.oversized), number++});
    for (const auto line : split_lines(block.bytes)) out.push_back({std::string(line), number++});
    EXPECT_EQ(number - block.first_line, block.lines);
  }
  return out;
}

std::string many_lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += "line " + std::to_string(i) + std::string(static_cast<size_t>(i * 37 % 211), 'x') +
            (i % 3 == 0   ? "\r\n"
             : i % 3 == 1 ? "\n"
                          : "\r");
  return text;
}

std::vector<Line> expected_lines(int count) {
  std::vector<Line> out;
  for (int i = 0; i < count; ++i) out.push_back({"line " + std::to_string(i) + std::string(static_cast<size_t>(i * 37 % 211), 'x'), i + 1});
  return out;
}

TEST(LineReader, ReadsEveryCompressionAndBlockSizeAlike) {
  const Scratch scratch;
  const std::string text = many_lines(5000), half = text.substr(0, text.size() / 2), rest = text.substr(text.size() / 2);
  const std::pair<std::string, std::string> files[] = {{"plain", text},
                                                       {"one.gz", gzip(text)},
                                                       {"members.gz", gzip(half) + gzip("") + gzip(rest)},
                                                       {"padded.gz", gzip(half) + std::string(3, '\0') + gzip(rest) + std::string(300000, '\0')},
                                                       {"one.zst", zstd(text)},
                                                       {"frames.zst", zstd(half) + zstd("") + zstd(rest)}};
  for (const auto& [name, content] : files) {
    const fs::path file = scratch.write(name, content);
    for (size_t block_bytes : {1, 100, 4096, 1 << 20}) {
      LineReader reader(file, block_bytes, 1 << 20);
      EXPECT_EQ(lines_of(reader), expected_lines(5000)) << name << " " << block_bytes;
      EXPECT_EQ(reader.compressed_offset(), content.size()) << name;
    }
  }
}

TEST(LineReader, EndsAndEmptyLines) {
  const Scratch scratch;
  const std::pair<std::string, std::vector<Line>> cases[] = {
      {"", {}},
      {"\n", {{"", 1}}},
      {"a", {{"a", 1}}},
      {"a\n", {{"a", 1}}},
      {"a\r", {{"a", 1}}},
      {"a\r\n", {{"a", 1}}},
      {"a\n\nb", {{"a", 1}, {"", 2}, {"b", 3}}},
      {"a\r\r\nb\n\r", {{"a", 1}, {"", 2}, {"b", 3}, {"", 4}}},
      {std::string("a\0b\n", 4), {{std::string("a\0b", 3), 1}}},
  };
  for (const auto& [text, wanted] : cases) {
    for (size_t block_bytes : {1, 1000}) {
      LineReader reader(scratch.write("x", text), block_bytes, 1000);
      EXPECT_EQ(lines_of(reader), wanted) << text;
    }
  }
}

TEST(LineReader, PassesOverLinesAboveTheLimitInBoundedMemory) {
  const Scratch scratch;
  const std::string huge(3 << 20, 'h');
  for (const std::string end : {"\n", "\r\n", "\r"}) {
    const fs::path file = scratch.write("x", "first" + end + huge + end + "third" + end + huge);
    LineReader reader(file, 1000, 5000);
    const std::string oversized = "oversized " + std::to_string(huge.size() + end.size());
    EXPECT_EQ(lines_of(reader),
              (std::vector<Line>{{"first", 1}, {oversized, 2}, {"third", 3}, {"oversized " + std::to_string(huge.size()), 4}}));
  }
}

TEST(LineReader, GoesOnFromAnyBlock) {
  const Scratch scratch;
  const std::string text = many_lines(20000);
  for (const auto& [name, content] : {std::pair<std::string, std::string>{"plain", text}, {"x.gz", gzip(text)}, {"x.zst", zstd(text)}}) {
    const fs::path file = scratch.write(name, content);
    LineReader first(file, 5000, 1 << 20);
    LineBlock block;
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(first.next(block));
    ASSERT_LT(block.offset + block.bytes.size(), text.size());
    LineReader second(file, 777, 1 << 20);
    second.skip_to(block.offset + block.bytes.size(), block.first_line + block.lines);
    const auto rest = lines_of(second);
    auto wanted = expected_lines(20000);
    wanted.erase(wanted.begin(), wanted.begin() + block.first_line + block.lines - 1);
    EXPECT_EQ(rest, wanted) << name;
    EXPECT_USER_ERROR(LineReader(file, 777, 1 << 20).skip_to(text.size() + 1, 1), "the file has changed");
  }
}

TEST(LineReader, RefusesDamagedStreams) {
  const Scratch scratch;
  const std::string text = many_lines(3000);
  for (const auto& [name, content] : {std::pair<std::string, std::string>{"x.gz", gzip(text)}, {"x.zst", zstd(text)}}) {
    for (size_t size : {content.size() / 2, content.size() - 1, size_t{5}}) {
      const fs::path file = scratch.write(name, content.substr(0, size));
      const std::string error = user_error([&] {
        LineReader reader(file, 1000, 1 << 20);
        lines_of(reader);
      });
      EXPECT_NE(error.find("truncated"), std::string::npos) << error;
      EXPECT_NE(error.find(name), std::string::npos) << error;
    }
    std::string damaged = content;
    for (size_t i = damaged.size() / 2; i < damaged.size() / 2 + 40; ++i) damaged[i] = static_cast<char>(~damaged[i]);
    const fs::path file = scratch.write(name, damaged);
    EXPECT_THROW(
        {
          LineReader reader(file, 1000, 1 << 20);
          lines_of(reader);
        },
        UserError)
        << name;
  }
  EXPECT_USER_ERROR(ByteSource::open(scratch / "absent"), "not found");
  EXPECT_USER_ERROR(ByteSource::open(fs::temp_directory_path()), "not a regular file");
}

}  // namespace
}  // namespace ponte
