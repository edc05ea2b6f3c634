// Any bytes as tokenizer.model: a tokenizer or a UserError; a tokenizer must encode, with offsets too, and decode without fault.
#include <cstdlib>

#include "base/errors.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer = ponte::Tokenizer::parse_sentencepiece({reinterpret_cast<const char*>(data), size}, "", "fuzz");
    for (const std::string text : {"", " ", "  a b\n caf\xC3\xA9 \xE2\x96\x81<s> 123 \xE4\xB8\xAD\xF0\x9F\x99\x82\xFF ", "\xEF\xAC\x81\xE2\x91\xA0 the the"}) {
      const auto ids = tokenizer.encode(text);
      const auto spans = tokenizer.encode_with_offsets(text, ponte::AddSpecial::yes, ponte::OffsetUnit::bytes);
      if (ids.size() != spans.size()) std::abort();
      for (size_t i = 0; i < ids.size(); ++i)
        if (ids[i] != spans[i].id || spans[i].begin > spans[i].end || spans[i].end > text.size()) std::abort();
      tokenizer.decode(ids, ponte::SkipSpecial::yes);
    }
  } catch (const ponte::UserError&) {
  }
  return 0;
}
