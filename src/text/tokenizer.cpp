#include "text/tokenizer.h"

#include "base/errors.h"
#include "base/file.h"
#include "text/encoder.h"
#include "text/tokenizer_state.h"
#include "text/unicode.h"

namespace ponte {
namespace {

// An encoder out of the pool, given back at the end of the scope.
class BorrowedEncoder {
 public:
  explicit BorrowedEncoder(const TokenizerState& state) : state_(state) {
    const std::lock_guard lock(state.pool_mutex);
    if (state.pool.empty()) {
      encoder_ = std::make_unique<Encoder>(state);
    } else {
      encoder_ = std::move(state.pool.back());
      state.pool.pop_back();
    }
  }
  ~BorrowedEncoder() {
    const std::lock_guard lock(state_.pool_mutex);
    state_.pool.push_back(std::move(encoder_));
  }
  Encoder* operator->() { return encoder_.get(); }

 private:
  const TokenizerState& state_;
  std::unique_ptr<Encoder> encoder_;
};

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<TokenizerState> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

bool Tokenizer::is_in(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  return !folder.empty() && (fs::exists(folder / "tokenizer.json") || fs::exists(folder / "tokenizer.model"));
}

Tokenizer Tokenizer::load(const std::filesystem::path& folder_or_file) {
  namespace fs = std::filesystem;
  fs::path file = folder_or_file;
  if (!fs::is_regular_file(file)) {
    file = folder_or_file / "tokenizer.json";
    if (!fs::exists(file)) file = folder_or_file / "tokenizer.model";
    require(fs::exists(file), "{}: neither tokenizer.json nor tokenizer.model there", folder_or_file);
  }
  const fs::path config = file.parent_path() / "tokenizer_config.json";
  const std::string text = read_file(file), config_text = fs::exists(config) ? read_file(config) : "";
  const size_t first = text.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
  const bool json = file.extension() == ".json" || (file.extension() != ".model" && first != std::string::npos && text[first] == '{');
  return json ? parse(text, config_text, file.string()) : parse_sentencepiece(text, config_text, file.string());
}

Tokenizer Tokenizer::parse(std::string_view tokenizer_json, std::string_view config_json, std::string_view origin) {
  return Tokenizer(read_tokenizer(tokenizer_json, config_json, origin));
}

Tokenizer Tokenizer::parse_sentencepiece(std::string_view model, std::string_view config_json, std::string_view origin) {
  return Tokenizer(read_sentencepiece_tokenizer(model, config_json, origin));
}

void Tokenizer::encode_append(std::string_view text, AddSpecial add_special, std::vector<int32_t>& ids) const {
  const bool around = add_special == AddSpecial::yes;
  if (around) ids.insert(ids.end(), state_->before.begin(), state_->before.end());
  BorrowedEncoder(*state_)->encode(text, ids);
  if (around) ids.insert(ids.end(), state_->after.begin(), state_->after.end());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, AddSpecial add_special) const {
  std::vector<int32_t> ids;
  encode_append(text, add_special, ids);
  return ids;
}

namespace {

// Where the characters of a text begin, and its end, in bytes of `given`; an ill-formed part of it is one character of `read`.
std::vector<uint32_t> character_starts(std::string_view given, std::string_view read) {
  std::vector<uint32_t> out;
  const bool same = given.size() == read.size() && given == read;
  size_t at = 0;
  for (const char *p = read.data(), *end = p + read.size(); p < end;) {
    const auto c = unicode::decode(p);
    out.push_back(static_cast<uint32_t>(at));
    p += c.bytes;
    at += same ? c.bytes : unicode::lossy_step(given.substr(at));
  }
  out.push_back(static_cast<uint32_t>(given.size()));
  return out;
}

// Bytes of `text` to its characters, as the library's converter does: an end inside a character is that character's index.
void count_characters(std::string_view text, std::vector<TokenSpan>& tokens) {
  std::vector<uint32_t> index(text.size() + 1);
  uint32_t n = 0;
  for (size_t at = 0; at < text.size(); ++n)
    for (size_t i = unicode::decode(text.data() + at).bytes; i; --i) index[at++] = n;
  index[text.size()] = n;
  for (TokenSpan& token : tokens) token.begin = index[token.begin], token.end = index[token.end];
}

}  // namespace

std::vector<TokenSpan> Tokenizer::encode_with_offsets(std::string_view text, AddSpecial add_special, OffsetUnit unit) const {
  std::string valid;
  unicode::append_lossy(valid, text);
  TracedTokens traced = encode_traced(*state_, valid);
  count_characters(valid, traced.tokens);
  const bool around = add_special == AddSpecial::yes;
  trim_offsets(state_->trims, around ? state_->before.size() : 0, traced);
  if (unit == OffsetUnit::bytes) {
    const std::vector<uint32_t> starts = character_starts(text, valid);
    const auto byte = [&](uint32_t character) { return starts[std::min<size_t>(character, starts.size() - 1)]; };
    for (TokenSpan& token : traced.tokens) token.begin = byte(token.begin), token.end = byte(token.end);
  }
  if (!around) return std::move(traced.tokens);
  std::vector<TokenSpan> out;
  for (const int32_t id : state_->before) out.push_back({id, 0, 0});
  out.insert(out.end(), traced.tokens.begin(), traced.tokens.end());
  for (const int32_t id : state_->after) out.push_back({id, 0, 0});
  return out;
}

namespace {
bool decodes(const TokenizerState& state, int32_t id, SkipSpecial skip_special) {
  const auto i = static_cast<size_t>(id);
  return id >= 0 && i < state.known.size() && state.known[i] && !(skip_special == SkipSpecial::yes && state.special[i]);
}
}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids, SkipSpecial skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids)
    if (decodes(*state_, id, skip_special)) tokens.push_back(state_->spelling[static_cast<size_t>(id)]);
  return decode_tokens(state_->decoder, std::move(tokens));
}

int64_t Tokenizer::vocab_size() const { return state_->vocab_size; }
int32_t Tokenizer::max_id() const { return static_cast<int32_t>(state_->known.size()) - 1; }
std::optional<int32_t> Tokenizer::bos_id() const { return state_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return state_->eos; }
std::optional<int32_t> Tokenizer::pad_id() const { return state_->pad; }
std::optional<int32_t> Tokenizer::unk_id() const { return state_->unk; }

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  for (const AddedToken& added : state_->added)
    if (added.content == token) return added.id;
  const int32_t id = state_->model->vocabulary().find(token);
  return id == TokenTable::kNone ? std::nullopt : std::optional(id);
}

std::string Tokenizer::token_of(int32_t id) const { return decodes(*state_, id, SkipSpecial::no) ? state_->spelling[static_cast<size_t>(id)] : ""; }
bool Tokenizer::is_special(int32_t id) const { return decodes(*state_, id, SkipSpecial::no) && state_->special[static_cast<size_t>(id)]; }

struct StreamDecoder::Pending {
  const TokenizerState& state;
  SkipSpecial skip_special;
  TokenStream stream;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, SkipSpecial skip_special)
    : pending_(new Pending{tokenizer.state(), skip_special, TokenStream(tokenizer.state().decoder)}) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(int32_t id) {
  if (!decodes(pending_->state, id, pending_->skip_special)) return {};
  return pending_->stream.push(pending_->state.spelling[static_cast<size_t>(id)]);
}

std::string StreamDecoder::finish() { return pending_->stream.finish(); }

}  // namespace ponte
