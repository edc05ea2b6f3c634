// Any bytes as text: each family's pipeline encodes them, in one piece and piecewise decoding agree, and the words cover the text.
#include <array>
#include <cstdlib>

#include "base/errors.h"
#include "text/bpe.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace {

std::string pipeline(const std::string& normalizer, const std::string& pattern) {
  std::string vocab, quote;
  int id = 0;
  for (const std::string& token : ponte::byte_spelling()) {
    const std::string escaped = token == "\"" || token == "\\" ? "\\" + token : token;
    vocab += (id ? ",\"" : "\"") + escaped + "\":" + std::to_string(id);
    ++id;
  }
  vocab += ",\"ab\":256,\"\xC4\xA0\x61\":257,\"aa\":258,\"aaaa\":259";
  std::string escaped;
  for (const char c : pattern) escaped += c == '\\' || c == '"' ? std::string("\\") + c : std::string(1, c);
  return R"({"normalizer":)" + normalizer + R"(,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":")" + escaped +
         R"("},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},"decoder":{"type":"ByteLevel"},)" +
         R"("added_tokens":[{"id":260,"content":"<|x|>","special":true},{"id":261,"content":" y","lstrip":true,"rstrip":true,"single_word":true}],)" +
         R"("model":{"type":"BPE","vocab":{)" + vocab + R"(},"merges":["a b","\u0120 a","a a","aa aa"]}})";
}

const std::string kTail = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

const auto& tokenizers() {
  static const std::array<ponte::Tokenizer, 3> all = {
      ponte::Tokenizer::parse(pipeline(R"({"type":"NFC"})",
          R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + kTail), "", "qwen"),
      ponte::Tokenizer::parse(pipeline("null",
          R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" + kTail), "", "tekken"),
      ponte::Tokenizer::parse(pipeline(R"({"type":"NFKD"})", R"(\p{L}+|\p{N}{1,2}|\s+)"), "", "generic")};
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  size_t which = 0;
  for (const ponte::Tokenizer& t : tokenizers()) {
    const auto ids = t.encode(text);
    if (ids != t.encode(text)) std::abort();  // from the cache
    const std::string whole = t.decode(ids);
    ponte::StreamDecoder stream(t, ponte::SkipSpecial::no);
    std::string pieces;
    for (const int32_t id : ids) pieces += stream.push(id);
    if (pieces + stream.finish() != whole) std::abort();
    std::string valid;
    ponte::unicode::append_lossy(valid, text);
    // Without a normalizer, and without the token that eats spaces, decoding gives the text back.
    if (which++ == 1 && valid.find(" y") == std::string::npos && whole != valid) std::abort();
  }
  return 0;
}
