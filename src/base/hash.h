// Content hashes: xxh3-128 for manifests (speed of memory), SHA-256 and git's blob ids for files named by the hub.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace ponte {

// 32 hexadecimal digits of XXH3-128, fed in any number of parts.
class ContentHash {
 public:
  ContentHash();
  ~ContentHash();
  ContentHash(ContentHash&&) noexcept;
  void update(std::span<const std::byte> bytes);
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string content_hash(std::span<const std::byte> bytes);
uint64_t xxh3_64(std::span<const std::byte> bytes);

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void update(std::span<const std::byte> bytes);
  std::string hex();  // ends the stream

 private:
  void* context_;
};

std::string sha256(std::span<const std::byte> bytes);

// git's name for a file of this content: SHA-1 of "blob <size>\0" and the bytes.
std::string git_blob_id(std::span<const std::byte> bytes);

}  // namespace ponte
