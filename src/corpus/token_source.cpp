#include "corpus/token_source.h"

#include <vector>

#include "base/errors.h"
#include "corpus/numpy_random.h"
#include "format/indexed_dataset.h"

namespace ponte {
namespace {

class FileSource : public TokenSource {
 public:
  // Lengths are read through from first to last; tokens wherever a sample lies.
  explicit FileSource(const std::string& prefix) : dataset_(prefix, SequenceModes::absent, {.tokens = Access::random}) {}
  int64_t sequences() const override { return dataset_.sequences(); }
  int32_t length(int64_t sequence) const override {
    const int32_t length = dataset_.sequence_length(sequence);
    require(length >= 0 && length <= dataset_.total_tokens(), "{}: sequence {} has length {}, but the .bin holds {} tokens", idx_path(dataset_.prefix()), sequence,
            length, dataset_.total_tokens());
    return length;
  }
  void read(int64_t sequence, int64_t offset, std::span<int32_t> out) const override { dataset_.read(sequence, offset, out); }
  std::string name() const override { return dataset_.prefix(); }
  std::string fingerprint() const override { return dataset_.fingerprint(); }

 private:
  IndexedDataset dataset_;
};

class MockSource : public TokenSource {
 public:
  MockSource(int64_t vocab_size, int32_t eod_id)
      : vocab_size_(vocab_size), eod_id_(eod_id), lengths_(default_rng_integers(0, 1, 4096, 100000)) {
    require(vocab_size > 0 && eod_id >= 0, "mock data needs the tokenizer's vocabulary size and end-of-document id; found {} and {}",
            vocab_size, eod_id);
  }
  int64_t sequences() const override { return static_cast<int64_t>(lengths_.size()); }
  int32_t length(int64_t sequence) const override { return lengths_[static_cast<size_t>(sequence)]; }
  void read(int64_t sequence, int64_t offset, std::span<int32_t> out) const override {
    const int64_t last = length(sequence) - 1;
    for (size_t i = 0; i < out.size(); ++i) {
      const int64_t at = offset + static_cast<int64_t>(i);
      out[i] = at == last ? eod_id_ : static_cast<int32_t>((at + 1) % vocab_size_);
    }
  }
  std::string name() const override { return "mock data"; }
  std::string fingerprint() const override { return format("mock-{}-{}", vocab_size_, eod_id_); }

 private:
  int64_t vocab_size_;
  int32_t eod_id_;
  std::vector<int32_t> lengths_;
};

}  // namespace

std::shared_ptr<const TokenSource> open_token_source(const std::string& prefix) { return std::make_shared<FileSource>(prefix); }
std::shared_ptr<const TokenSource> mock_token_source(int64_t vocab_size, int32_t eod_id) {
  return std::make_shared<MockSource>(vocab_size, eod_id);
}

}  // namespace ponte
