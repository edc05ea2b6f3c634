// One Writer per sequence turns its tokens into text and decides when it ends.
#include "generate/generator.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"
#include "base/log.h"
#include "config/limits.h"
#include "generate/stop_strings.h"

namespace ponte {
namespace {

namespace fs = std::filesystem;

class Writer {
 public:
  // `most`: at most this many new tokens.
  Writer(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt, const GenerationOptions& options, int64_t most,
         std::function<void(std::string_view)> out)
      : options_(options), most_(static_cast<size_t>(most)), decoder_(tokenizer, options.skip_special), stops_(options.stop_strings), out_(std::move(out)) {
    for (const int32_t id : prompt) decoder_.push(id);  // a decoder may treat the first token of a text in its own way
  }

  bool take(int32_t id) {
    result_.ids.push_back(id);
    if (std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) != options_.stop_ids.end()) {
      result_.reason = FinishReason::stop_token;
      return false;
    }
    write(stops_.push(decoder_.push(id)));
    if (stops_.met()) result_.reason = FinishReason::stop_string;
    return !stops_.met() && result_.ids.size() < most_;
  }

  Completion finish() {
    if (!stops_.met()) write(stops_.push(decoder_.finish()));
    if (!stops_.met()) write(stops_.finish());
    if (stops_.met()) result_.reason = FinishReason::stop_string;
    return std::move(result_);
  }

 private:
  void write(const std::string& text) {
    result_.text += text;
    if (out_ && !text.empty()) out_(text);
  }
  const GenerationOptions& options_;
  size_t most_;
  StreamDecoder decoder_;
  StopStrings stops_;
  std::function<void(std::string_view)> out_;
  Completion result_;
};

// New tokens a prompt may have: those asked for, as far as the model's positions go.
int64_t new_tokens_for(const Model& model, size_t prompt_tokens, int64_t asked, const std::string& prompt) {
  const int64_t longest = longest_sequence(model.config()), taken = static_cast<int64_t>(prompt_tokens);
  require(taken < longest, "{}: {} tokens, but the model has positions for {} with the answer (max_position_embeddings {})", prompt, taken, longest,
          model.config().max_position_embeddings);
  return std::min(asked, longest - taken);
}

void append_ids(const Json& value, const fs::path& file, std::vector<int32_t>& ids) {
  const auto one = [&](const Json& v) {
    require(v.is_number_integer(), "{}: eos_token_id is {}, an integer or a list of integers was wanted", file, v.dump());
    ids.push_back(v.get<int32_t>());
  };
  if (value.is_array())
    for (const Json& v : value) one(v);
  else
    one(value);
}

}  // namespace

std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop_token: return "stop_token";
    case FinishReason::stop_string: return "stop_string";
    case FinishReason::length: return "length";
  }
  PONTE_ASSERT(false);
}

std::vector<int32_t> stop_ids_of(const fs::path& folder, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const char* document : {"generation_config.json", "config.json"}) {
    const fs::path file = folder / document;
    if (!fs::exists(file)) continue;
    const Json json = read_json(file);
    if (json.is_object() && json.contains("eos_token_id") && !json["eos_token_id"].is_null()) append_ids(json["eos_token_id"], file, ids);
    if (!ids.empty()) return ids;
  }
  if (tokenizer.eos_id()) ids.push_back(*tokenizer.eos_id());
  return ids;
}

std::vector<Completion> generate(Model& model, const Tokenizer& tokenizer, const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerationOptions& options, const TextListener& listener, Guesses* counted) {
  check_sampling(options.sampling);
  std::vector<int64_t> most;
  for (size_t i = 0; i < prompts.size(); ++i) {
    require(!prompts[i].empty(), "prompt {}: it has no tokens, at least one is wanted", i + 1);
    most.push_back(new_tokens_for(model, prompts[i].size(), options.max_new_tokens, format("prompt {}", i + 1)));
  }
  if (const auto least = std::min_element(most.begin(), most.end()); least != most.end() && *least < options.max_new_tokens)
    log_info("the model has {} positions: after a prompt there is room for {} new tokens of the {} asked for", longest_sequence(model.config()), *least,
             options.max_new_tokens);
  std::vector<Completion> results;
  const size_t batch = static_cast<size_t>(std::max<int64_t>(1, options.batch_size));
  for (size_t first = 0; first < prompts.size(); first += batch) {
    const std::vector<std::vector<int32_t>> part(prompts.begin() + static_cast<std::ptrdiff_t>(first),
                                                 prompts.begin() + static_cast<std::ptrdiff_t>(std::min(prompts.size(), first + batch)));
    std::vector<std::unique_ptr<Writer>> writers;
    for (size_t i = 0; i < part.size(); ++i)
      writers.push_back(std::make_unique<Writer>(tokenizer, part[i], options, most[first + i], [&listener, n = first + i](std::string_view text) {
        if (listener) listener(n, text);
      }));
    const int64_t longest =
        *std::max_element(most.begin() + static_cast<std::ptrdiff_t>(first), most.begin() + static_cast<std::ptrdiff_t>(first + part.size()));
    const PickToken pick = [&](size_t sequence, int64_t step, std::span<const float> logits) {
      return next_token(logits, options.sampling, first + sequence, static_cast<uint64_t>(step));
    };
    const TakeToken take = [&](size_t sequence, int32_t id) { return writers[sequence]->take(id); };
    if (options.guesses > 0) {
      const Guesses guesses = speculative_loop(model, part, longest, options.guesses, pick, take);
      if (counted) counted->made += guesses.made, counted->kept += guesses.kept;
    } else {
      decode_loop(model, part, longest, pick, take);
    }
    for (auto& writer : writers) results.push_back(writer->finish());
  }
  return results;
}

Conversation::Conversation(Model& model, const Tokenizer& tokenizer, int64_t max_tokens)
    : model_(model), tokenizer_(tokenizer), max_tokens_(max_tokens), cache_(model, 1, std::min<int64_t>(max_tokens, 512)) {
  const int64_t longest = longest_sequence(model.config());
  require(max_tokens > 0 && max_tokens <= longest, "conversation: a context of {} tokens wanted, the model has positions for {}", max_tokens, longest);
}

Completion Conversation::reply(const std::vector<int32_t>& context, const GenerationOptions& options, const TextListener& listener) {
  check_sampling(options.sampling);
  require(!context.empty(), "conversation: the context has no tokens, at least one is wanted");
  const auto room = max_tokens_ - static_cast<int64_t>(context.size());
  require(room > 0, "conversation: {} tokens so far, room for {}; start a new one", context.size(), max_tokens_);
  size_t same = 0;
  while (same < cached_.size() && same + 1 < context.size() && cached_[same] == context[same]) ++same;  // the last token is always computed
  same = static_cast<size_t>(cache_.truncate(0, static_cast<int64_t>(same)));
  cached_ = context;
  Writer writer(tokenizer_, context, options, std::min(options.max_new_tokens, room), [&listener](std::string_view text) {
    if (listener) listener(0, text);
  });
  const uint64_t turn = turn_++;
  continue_sequence(
      model_, cache_, std::span(context).subspan(same), std::min(options.max_new_tokens, room),
      [&](size_t, int64_t step, std::span<const float> logits) { return next_token(logits, options.sampling, turn, static_cast<uint64_t>(step)); },
      [&](size_t, int32_t id) {
        cached_.push_back(id);
        return writer.take(id);
      });
  cached_.resize(static_cast<size_t>(cache_.length(0)));
  return writer.finish();
}

}  // namespace ponte
