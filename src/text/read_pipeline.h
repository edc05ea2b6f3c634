// The parts of a tokenizer.json other than its vocabulary. Each throws UserError naming a component it does not know.
#pragma once
#include <vector>

#include "text/json_view.h"
#include "text/normalize.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"

namespace ponte {

std::vector<NormalizeStep> read_normalizer(const JsonView& json);

struct PreTokenizerSpec {
  std::vector<SplitStep> steps;
  bool byte_level = false;  // words are spelled in GPT-2's byte alphabet after the last step
};
PreTokenizerSpec read_pre_tokenizer(const JsonView& json);

std::vector<DecodeStep> read_decoder(const JsonView& json);

// Ids the post-processor puts around one text.
struct Surroundings {
  std::vector<int32_t> before, after;
};
Surroundings read_post_processor(const JsonView& json);

}  // namespace ponte
