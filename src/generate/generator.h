// Text from text: token loop, sampler, decoding without broken characters, stop tokens and stop strings put together.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "generate/decode_loop.h"
#include "generate/sampler.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace ponte {

struct GenerationOptions {
  int64_t max_new_tokens = 128;
  SamplingOptions sampling;
  std::vector<int32_t> stop_ids;            // the token that ends a sequence is not part of the text
  std::vector<std::string> stop_strings;    // nor is the string
  SkipSpecial skip_special = SkipSpecial::yes;
  int64_t batch_size = 16;                  // prompts that run together
  int64_t guesses = 0;                      // tokens that the model's prediction layers guess for each pass; 0: no guessing
};

enum class FinishReason { stop_token, stop_string, length };
std::string_view name(FinishReason reason);  // "stop_token", "stop_string", "length"

struct Completion {
  std::vector<int32_t> ids;  // new tokens, a final stop token included
  std::string text;
  FinishReason reason = FinishReason::length;
};

// Pieces of text as they become certain; `prompt` is the prompt's number.
using TextListener = std::function<void(size_t prompt, std::string_view piece)>;

// Ids that end a sequence: eos_token_id (one or a list) of the folder's generation_config.json, else of its config.json, else the tokenizer's.
std::vector<int32_t> stop_ids_of(const std::filesystem::path& folder, const Tokenizer& tokenizer);

// Completions in the order of the prompts. A prompt and what follows it never go beyond the model's positions (config/limits.h). UserError for a prompt
// that is empty or fills them already. counted: where to add up what became of guesses.
std::vector<Completion> generate(Model& model, const Tokenizer& tokenizer, const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerationOptions& options, const TextListener& listener = {}, Guesses* counted = nullptr);

// A dialogue with one growing context: each turn gives the whole context's ids, and only those that differ from what the cache holds are computed.
class Conversation {
 public:
  // `max_tokens`: of the whole context; UserError beyond the model's positions.
  Conversation(Model& model, const Tokenizer& tokenizer, int64_t max_tokens);
  Completion reply(const std::vector<int32_t>& context, const GenerationOptions& options, const TextListener& listener = {});

 private:
  Model& model_;
  const Tokenizer& tokenizer_;
  int64_t max_tokens_;  // of the whole context
  KvCache cache_;
  std::vector<int32_t> cached_;
  uint64_t turn_ = 0;
};

}  // namespace ponte
