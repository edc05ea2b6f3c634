// tokenizer.json and tokenizer_config.json into a TokenizerState.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "text/encoder.h"
#include "text/read_pipeline.h"
#include "text/tokenizer_state.h"

namespace ponte {

TokenizerState::TokenizerState() = default;
TokenizerState::~TokenizerState() = default;

namespace {

// Longest merge lists run to half a million; a JSON document larger than this is no tokenizer.
constexpr size_t kLargestDocument = size_t{1} << 30;

simdjson::dom::element parse_document(simdjson::dom::parser& parser, std::string_view text, std::string_view origin) {
  require(text.size() < kLargestDocument, "{}: {} bytes, at most {} are read", origin, text.size(), kLargestDocument);
  simdjson::dom::element root;
  const auto error = parser.parse(text.data(), text.size()).get(root);
  require(!error, "{}: not valid JSON ({})", origin, simdjson::error_message(error));
  return root;
}

// A name the model options carry although it has no effect ("" or null), or an error.
void require_absent(const JsonView& model, std::string_view key) {
  const auto value = model.find(key);
  require(!value || value->string().empty(), "{}: {} '{}' is not supported", model.place(), key, value ? value->string() : "");
}

TokenTable read_vocabulary(const JsonView& json) {
  const simdjson::dom::object object = json.object();
  TokenTable out;
  size_t tokens = 0, bytes = 0;
  for (const auto& field : object) ++tokens, bytes += field.key.size();
  out.reserve(tokens, bytes);
  for (const auto& field : object) {
    int64_t id = 0;
    require(!field.value.get(id) && id >= 0 && id < (1 << 21), "{}: the id of token '{}', wanted an integer below 2097152", json.place(), field.key);
    out.insert(field.key, static_cast<int32_t>(id));
  }
  return out;
}

// "a b" or ["a", "b"]; lines that begin with "#version" are comments.
std::vector<std::pair<std::string_view, std::string_view>> read_merges(const JsonView& json) {
  std::vector<std::pair<std::string_view, std::string_view>> out;
  const simdjson::dom::array list = json.array();
  out.reserve(list.size());
  size_t i = 0;
  for (const simdjson::dom::element e : list) {
    std::string_view line;
    simdjson::dom::array pair;
    if (!e.get(line)) {
      if (line.starts_with("#version")) continue;
      const size_t space = line.find(' ');
      require(space != std::string_view::npos && line.find(' ', space + 1) == std::string_view::npos, "{}[{}]: merge '{}', wanted two tokens and a space",
              json.place(), i, line);
      out.emplace_back(line.substr(0, space), line.substr(space + 1));
    } else {
      require(!e.get(pair) && pair.size() == 2, "{}[{}]: wanted a string or a pair of strings", json.place(), i);
      const JsonView view = json.item(e, i);
      out.emplace_back(view.item(pair.at(0).value(), 0).string(), view.item(pair.at(1).value(), 1).string());
    }
    ++i;
  }
  return out;
}

std::unique_ptr<Bpe> read_model(const JsonView& json, bool byte_level) {
  const std::string type = json.string_or("type", "BPE");
  require(type == "BPE", "{}: model '{}' is not supported, wanted BPE", json.place(), type);
  require_absent(json, "continuing_subword_prefix");
  require_absent(json, "end_of_word_suffix");
  require(!json.find("dropout") || json["dropout"].is_null(), "{}: dropout is not supported, it makes ids random", json.place());
  BpeOptions options;
  options.byte_level = byte_level;
  options.byte_fallback = json.boolean_or("byte_fallback", false);
  options.fuse_unknown = json.boolean_or("fuse_unk", false);
  options.ignore_merges = json.boolean_or("ignore_merges", false);
  if (const auto unk = json.find("unk_token")) options.unknown_token = unk->string();
  const JsonView merges = json["merges"];
  return std::make_unique<Bpe>(read_vocabulary(json["vocab"]), read_merges(merges), std::move(options));
}

AddedToken read_added_token(const JsonView& json) {
  AddedToken out;
  out.content = json["content"].string();
  out.single_word = json.boolean_or("single_word", false);
  out.lstrip = json.boolean_or("lstrip", false);
  out.rstrip = json.boolean_or("rstrip", false);
  out.special = json.boolean_or("special", false);
  out.normalized = json.boolean_or("normalized", !out.special);
  return out;
}

// Added tokens by content, numbered as AddedVocabulary::add_tokens does: the model's id where the model knows the token, else the next free one.
class AddedVocabulary {
 public:
  explicit AddedVocabulary(const TokenTable& model) : model_(model) {}

  void add(AddedToken token) {
    if (token.content.empty()) return;
    const auto it = tokens_.find(token.content);
    const int32_t in_model = model_.find(token.content);
    if (it != tokens_.end()) token.id = it->second.id;
    else if (in_model != TokenTable::kNone) token.id = in_model;
    else token.id = std::max(largest_ + 1, static_cast<int32_t>(model_.size()));
    largest_ = std::max(largest_, token.id);
    tokens_[token.content] = std::move(token);
  }
  const AddedToken* find(const std::string& content) const {
    const auto it = tokens_.find(content);
    return it == tokens_.end() ? nullptr : &it->second;
  }
  std::vector<AddedToken> by_id() const {
    std::vector<AddedToken> out;
    for (const auto& [content, token] : tokens_) out.push_back(token);
    std::sort(out.begin(), out.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
    return out;
  }

 private:
  const TokenTable& model_;
  std::map<std::string, AddedToken> tokens_;
  int32_t largest_ = -1;
};

bool same(const AddedToken& a, const AddedToken& b) {
  return a.single_word == b.single_word && a.lstrip == b.lstrip && a.rstrip == b.rstrip && a.normalized == b.normalized && a.special == b.special;
}

// An added token of tokenizer_config.json, which is read without simdjson: it holds numbers beyond 64 bits (model_max_length).
AddedToken read_added_token(const Json& json, const std::string& place) {
  AddedToken out;
  out.content = json_get<std::string>(json, "content", place);
  out.single_word = json_get_or(json, "single_word", false, place);
  out.lstrip = json_get_or(json, "lstrip", false, place);
  out.rstrip = json_get_or(json, "rstrip", false, place);
  out.special = json_get_or(json, "special", false, place);
  out.normalized = json_get_or(json, "normalized", !out.special, place);
  return out;
}

// A special token there: a string, or an object with its content.
std::optional<AddedToken> named_token(const Json& config, std::string_view key, const std::string& place) {
  const auto it = config.find(std::string(key));
  if (it == config.end() || it->is_null()) return std::nullopt;
  AddedToken out;
  if (it->is_object()) {
    out = read_added_token(*it, place + "." + std::string(key));
  } else {
    out.content = json_get<std::string>(config, key, place);
    out.normalized = false;
  }
  out.special = true;
  return out;
}

constexpr std::string_view kNamed[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

// What transformers adds when it opens the folder: tokens of added_tokens_decoder that are new or say something else, then missing special tokens.
void add_from_config(const Json& config, const std::string& place, AddedVocabulary& added) {
  if (const auto decoder = config.find("added_tokens_decoder"); decoder != config.end() && !decoder->is_null()) {
    require(decoder->is_object(), "{}: added_tokens_decoder is not an object", place);
    std::map<int64_t, AddedToken> by_id;
    for (const auto& [key, value] : decoder->items()) {
      require(!key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos, "{}: added_tokens_decoder: '{}' is no id",
          place, key);
      by_id.emplace(std::stoll(key), read_added_token(value, place + ".added_tokens_decoder"));
    }
    for (const auto& [id, token] : by_id) {
      const AddedToken* known = added.find(token.content);
      if (!known || !same(*known, token)) added.add(token);
      known = added.find(token.content);
      require(!known || known->id == id, "{}: token '{}' has id {}, but the tokenizer gives it {}", place, token.content, id, known ? known->id : -1);
    }
  }
  for (const std::string_view key : kNamed)
    if (const auto token = named_token(config, key, place); token && !added.find(token->content)) added.add(*token);
}

void index_tokens(TokenizerState& state) {
  int32_t largest = -1;
  state.model->vocabulary().for_each([&](std::string_view, int32_t id) { largest = std::max(largest, id); });
  for (const AddedToken& token : state.added) largest = std::max(largest, token.id);
  const auto n = static_cast<size_t>(largest + 1);
  state.spelling.resize(n);
  state.known.resize(n);
  state.special.resize(n);
  const auto set = [&](std::string_view token, int32_t id) { state.spelling[static_cast<size_t>(id)] = token, state.known[static_cast<size_t>(id)] = true; };
  state.model->vocabulary().for_each(set);
  state.vocab_size = static_cast<int64_t>(state.model->vocabulary().size());
  for (const AddedToken& token : state.added) {
    if (state.model->vocabulary().find(token.content) == TokenTable::kNone) ++state.vocab_size;
    set(token.content, token.id);
    state.special[static_cast<size_t>(token.id)] = token.special;
  }
}

void build_matchers(TokenizerState& state) {
  std::vector<AddedToken> raw, normalized;
  std::vector<std::string> raw_text, normalized_text;
  std::string buffer, spare;
  for (const AddedToken& token : state.added) {
    (token.normalized ? normalized : raw).push_back(token);
    if (token.normalized) normalized_text.emplace_back(state.normalizer.apply(token.content, buffer, spare));
    else raw_text.push_back(token.content);
  }
  state.raw_tokens = AddedTokenMatcher(raw, raw_text);
  state.normalized_tokens = AddedTokenMatcher(normalized, normalized_text);
}

std::string config_place(std::string_view origin) { return "tokenizer_config.json beside " + std::string(origin); }

void check_pipeline(const TokenizerState& state, const JsonView& root) {
  for (const auto& list : {state.before, state.after})
    for (const int32_t id : list)
      require(static_cast<size_t>(id) < state.known.size() && state.known[static_cast<size_t>(id)], "{}: post_processor names id {}, which no token has",
              root.place(), id);
}

}  // namespace

std::unique_ptr<TokenizerState> read_tokenizer(std::string_view tokenizer_json, std::string_view config_json, std::string_view origin) {
  auto state = std::make_unique<TokenizerState>();
  simdjson::dom::parser parser;
  const JsonView root(parse_document(parser, tokenizer_json, origin), std::string(origin));
  PreTokenizerSpec spec;
  if (const auto json = root.find("pre_tokenizer")) spec = read_pre_tokenizer(*json);
  if (const auto json = root.find("normalizer")) state->normalizer = Normalizer(read_normalizer(*json));
  if (const auto json = root.find("decoder")) state->decoder = read_decoder(*json);
  if (const auto json = root.find("post_processor")) {
    Surroundings around = read_post_processor(*json);
    state->before = std::move(around.before), state->after = std::move(around.after), state->trims = std::move(around.trims);
  }
  state->model = read_model(root["model"], spec.byte_level);
  if (state->model->may_cut_before(kVisibleSpace)) spec.steps.push_back({.finder = SplitStep::Finder::scanner, .scan = scan_visible_spaces});
  state->pre_tokenizer = PreTokenizer(std::move(spec.steps));
  std::vector<AddedToken> added;
  if (const auto list = root.find("added_tokens")) list->each([&](const JsonView& token) { added.push_back(read_added_token(token)); });
  complete_tokenizer(*state, added, read_tokenizer_config(config_json, origin), origin);
  check_pipeline(*state, root);
  return state;
}

Json read_tokenizer_config(std::string_view config_json, std::string_view origin) {
  const std::string place = config_place(origin);
  Json config = config_json.empty() ? Json::object() : parse_json(config_json, place);
  require(config.is_object(), "{}: not a JSON object", place);
  return config;
}

void complete_tokenizer(TokenizerState& state, const std::vector<AddedToken>& tokens, const Json& config, std::string_view origin) {
  AddedVocabulary added(state.model->vocabulary());
  for (const AddedToken& token : tokens) added.add(token);
  const std::string place = config_place(origin);
  add_from_config(config, place, added);
  state.added = added.by_id();
  index_tokens(state);
  build_matchers(state);
  const auto asks = state.pre_tokenizer.asks_for_beginning();
  const bool plain = state.normalizer.empty() || (state.normalizer.keeps_beginning() && state.normalized_tokens.empty());
  state.needs_trace = asks == PreTokenizer::Asks::late || (asks == PreTokenizer::Asks::first && !plain);
  const auto id = [&](std::string_view key) -> std::optional<int32_t> {
    const auto token = named_token(config, key, place);
    const AddedToken* known = token ? added.find(token->content) : nullptr;
    return known ? std::optional(known->id) : std::nullopt;
  };
  state.bos = id("bos_token"), state.eos = id("eos_token"), state.pad = id("pad_token"), state.unk = id("unk_token");
}

}  // namespace ponte
