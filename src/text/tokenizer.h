// Text to token ids and back, from a Hugging Face tokenizer.json, id for id as the `tokenizers` library gives them, or from a SentencePiece
// model, id for id as SentencePiece gives them.
//
// Source of the semantics: huggingface/tokenizers 0.22 (added tokens, normalizers, pre-tokenizers, BPE, post-processors, decoders). A component
// this reader does not know is a UserError that names it; there is never a guessed id.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/traced_encode.h"

namespace ponte {

enum class AddSpecial { no, yes };   // whether encode() adds what the file's post-processor adds (e.g. a leading <s>)
enum class SkipSpecial { no, yes };  // whether decode() leaves out tokens marked special
enum class OffsetUnit { characters, bytes };

struct TokenizerState;

class Tokenizer {
 public:
  static bool is_in(const std::filesystem::path& folder);  // whether there is something load() would read; "": no folder

  // Reads tokenizer.json, or in its absence tokenizer.model, of a folder, or the one file given, with the tokenizer_config.json beside it if there
  // is one (names of bos/eos/pad/unk, extra added tokens). Throws UserError.
  static Tokenizer load(const std::filesystem::path& folder_or_file);
  // The same from texts in memory; `config_json` may be empty. `origin` names the documents in errors.
  static Tokenizer parse(std::string_view tokenizer_json, std::string_view config_json, std::string_view origin);
  static Tokenizer parse_sentencepiece(std::string_view model, std::string_view config_json, std::string_view origin);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Safe from any number of threads at once. Special tokens written out in the text become their ids, as in `tokenizers`. Bytes that are not
  // UTF-8 are read as U+FFFD, one for each maximal ill-formed part (Python's errors="replace"), before anything else looks at them.
  std::vector<int32_t> encode(std::string_view text, AddSpecial add_special = AddSpecial::yes) const;
  void encode_append(std::string_view text, AddSpecial add_special, std::vector<int32_t>& ids) const;

  // The tokens and what part of the text each stands for, as `tokenizers` reports it (in characters; several tokens of one character all have the
  // whole of it). For ill-formed bytes the unit "characters" counts U+FFFDs, "bytes" is about the text as given. An order of magnitude slower.
  std::vector<TokenSpan> encode_with_offsets(std::string_view text, AddSpecial add_special = AddSpecial::yes,
                                             OffsetUnit unit = OffsetUnit::characters) const;

  // As `transformers` decodes: ids outside the vocabulary are left out, ill-formed UTF-8 becomes U+FFFD.
  std::string decode(std::span<const int32_t> ids, SkipSpecial skip_special = SkipSpecial::no) const;

  int64_t vocab_size() const;  // number of distinct tokens, added ones included: len(tokenizer) in transformers
  int32_t max_id() const;      // the largest id any text can give; vocab_size() - 1 unless the file leaves gaps
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;
  std::optional<int32_t> unk_id() const;
  std::optional<int32_t> id_of(std::string_view token) const;  // by the token's spelling in the file
  std::string token_of(int32_t id) const;                      // spelling in the file; "" for an id outside the vocabulary
  bool is_special(int32_t id) const;

  const TokenizerState& state() const { return *state_; }  // for this folder's own encoder and decoder

 private:
  explicit Tokenizer(std::unique_ptr<TokenizerState> state);
  std::unique_ptr<TokenizerState> state_;
};

// Turns ids into text one by one. The pieces, put together, equal decode() of all ids; no piece ends inside a character.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, SkipSpecial skip_special);  // keeps a reference to the tokenizer
  StreamDecoder(StreamDecoder&&) noexcept;
  ~StreamDecoder();
  std::string push(int32_t id);  // the text that has become certain; often empty
  std::string finish();          // what was held back (an unfinished character becomes U+FFFD); the decoder then starts afresh

 private:
  struct Pending;
  std::unique_ptr<Pending> pending_;
};

}  // namespace ponte
