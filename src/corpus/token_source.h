// What samples are cut from: numbered sequences of token ids, either a file pair or Megatron's generated stand-in.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace ponte {

struct TokenSource {
  virtual ~TokenSource() = default;
  virtual int64_t sequences() const = 0;
  virtual int32_t length(int64_t sequence) const = 0;
  virtual void read(int64_t sequence, int64_t offset, std::span<int32_t> out) const = 0;
  virtual std::string name() const = 0;
  virtual std::string fingerprint() const = 0;
};

std::shared_ptr<const TokenSource> open_token_source(const std::string& prefix);
// MockGPTLowLevelDataset: 100,000 sequences of 1, 2, 3, ... modulo the vocabulary, each ending in EOD.
std::shared_ptr<const TokenSource> mock_token_source(int64_t vocab_size, int32_t eod_id);

}  // namespace ponte
