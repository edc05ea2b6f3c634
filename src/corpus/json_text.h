// The texts of one JSON line, with the meaning Python's json.loads gives it (Megatron's preprocessing reads lines so): the last of
// duplicate keys counts, NaN and Infinity and numbers of any size are values, control characters in strings are errors.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

// Bytes that must be readable behind a line given to JsonTextReader::read.
inline constexpr size_t kJsonPadding = 64;

// Reads line after line with the same buffers. Most lines go through simdjson; one it refuses is read again by an exact reader, which
// either accepts it or says what is wrong and where.
class JsonTextReader {
 public:
  explicit JsonTextReader(std::vector<std::string> keys);
  ~JsonTextReader();

  // What is wrong with the line ("column 12: ..."), or nullopt when every key holds a string or a list of strings.
  std::optional<std::string> read(std::string_view line);
  // The strings under key number `k`, valid until the next read(). A plain string is a list of one.
  const std::vector<std::string_view>& texts(size_t k) const { return texts_[k]; }

 private:
  struct Parser;
  std::optional<std::string> read_exactly(std::string_view line);
  std::vector<std::string> keys_;
  std::vector<std::vector<std::string_view>> texts_;
  std::vector<std::vector<std::string>> owned_;
  std::unique_ptr<Parser> parser_;
};

}  // namespace ponte
