// The parts of a tokenizer.json other than its vocabulary. Each throws UserError naming a component it does not know.
#pragma once
#include <vector>

#include "text/json_view.h"
#include "text/normalize.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/traced_encode.h"

namespace ponte {

std::vector<NormalizeStep> read_normalizer(const JsonView& json);

struct PreTokenizerSpec {
  std::vector<SplitStep> steps;
  bool byte_level = false;  // words are spelled in GPT-2's byte alphabet after the last step
};
PreTokenizerSpec read_pre_tokenizer(const JsonView& json);

std::vector<DecodeStep> read_decoder(const JsonView& json);

// What the post-processor does to one text: ids it puts around, and offsets it takes white space from.
struct Surroundings {
  std::vector<int32_t> before, after;
  std::vector<OffsetTrim> trims;
};
Surroundings read_post_processor(const JsonView& json);

}  // namespace ponte
