// Any bytes as tokenizer.json: a tokenizer or a UserError; a tokenizer must encode and decode without fault.
#include <cstdlib>

#include "base/errors.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t cut = bytes.find('\0');  // what follows a zero byte is tokenizer_config.json
  try {
    const auto tokenizer = ponte::Tokenizer::parse(bytes.substr(0, cut), cut == std::string_view::npos ? "" : bytes.substr(cut + 1), "fuzz");
    const std::string text = "a b\n caf\xC3\xA9 <|im_start|> 123 \xE4\xB8\xAD\xF0\x9F\x99\x82";
    const auto ids = tokenizer.encode(text);
    const auto spans = tokenizer.encode_with_offsets(text);
    if (ids.size() != spans.size()) std::abort();
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] != spans[i].id) std::abort();
    tokenizer.decode(ids, ponte::SkipSpecial::yes);
  } catch (const ponte::UserError&) {
  }
  return 0;
}
