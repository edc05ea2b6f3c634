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

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  const auto file = directory / "tokenizer.json", config = directory / "tokenizer_config.json";
  require(std::filesystem::exists(file), "{}: no tokenizer.json there", directory);
  return parse(read_file(file), std::filesystem::exists(config) ? read_file(config) : "", file.string());
}

Tokenizer Tokenizer::parse(std::string_view tokenizer_json, std::string_view config_json, std::string_view origin) {
  return Tokenizer(read_tokenizer(tokenizer_json, config_json, origin));
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
