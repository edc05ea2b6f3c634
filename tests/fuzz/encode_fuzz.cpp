// Any bytes as text: each family's pipeline encodes them, with offsets and without, in one piece and piecewise decoding agree, and all scanners of
// a pattern cut alike.
#include <array>
#include <cstdlib>

#include "base/errors.h"
#include "text/bpe.h"
#include "text/scanner.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace {

std::string escaped_json(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '\\' || c == '"' ? std::string("\\") + c : std::string(1, c);
  return out;
}

std::string pipeline(const std::string& normalizer, const std::vector<std::string>& patterns) {
  std::string vocab, quote;
  int id = 0;
  for (const std::string& token : ponte::byte_spelling()) {
    const std::string escaped = token == "\"" || token == "\\" ? "\\" + token : token;
    vocab += (id ? ",\"" : "\"") + escaped + "\":" + std::to_string(id);
    ++id;
  }
  vocab += ",\"ab\":256,\"\xC4\xA0\x61\":257,\"aa\":258,\"aaaa\":259";
  std::string splits;
  for (const std::string& pattern : patterns)
    splits += R"({"type":"Split","pattern":{"Regex":")" + escaped_json(pattern) + R"("},"behavior":"Isolated","invert":false},)";
  return R"({"normalizer":)" + normalizer + R"(,"pre_tokenizer":{"type":"Sequence","pretokenizers":[)" + splits +
         R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},"decoder":{"type":"ByteLevel"},)" +
         R"("added_tokens":[{"id":260,"content":"<|x|>","special":true},{"id":261,"content":" y","lstrip":true,"rstrip":true,"single_word":true}],)" +
         R"("model":{"type":"BPE","vocab":{)" + vocab + R"(},"merges":["a b","\u0120 a","a a","aa aa"]}})";
}

const std::string kTail = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::string kQwen = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + kTail;
const std::string kLlama = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + kTail;

const std::string kMetaspace =
    R"({"normalizer":{"type":"NFKC"},"pre_tokenizer":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"first","split":false},)"
    R"("added_tokens":[{"id":5,"content":"<|x|>","special":true},{"id":6,"content":" y","lstrip":true,"rstrip":true,"single_word":true}],)"
    R"("model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"vocab":{"<unk>":0,"\u2581":1,"a":2,"\u2581a":3,"aa":4},"merges":["\u2581 a","a a"]}})";

const std::string kPrefix = R"([^\r\n\p{L}\p{N}]?)", kUpper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])", kLower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])",
                  kSuffix = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)", kOther = R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*)" + kTail;
const std::string kO200k = kPrefix + kUpper + "*" + kLower + "+" + kSuffix + "|" + kPrefix + kUpper + "+" + kLower + "*" + kSuffix + R"(|\p{N}{1,3})" + kOther;
const std::string kTekken = kPrefix + kUpper + "*" + kLower + "+|" + kPrefix + kUpper + "+" + kLower + R"(*|\p{N})" + kOther;

const auto& tokenizers() {
  static const std::array<ponte::Tokenizer, 5> all = {
      ponte::Tokenizer::parse(pipeline(R"({"type":"NFC"})", {kQwen}), "", "qwen"),
      ponte::Tokenizer::parse(
          pipeline(
              "null",
              {kTekken}),
          "", "tekken"),
      ponte::Tokenizer::parse(pipeline(R"({"type":"NFKD"})", {R"(\p{L}+|\p{N}{1,2}|\s+)"}), "", "generic"),
      ponte::Tokenizer::parse(
          pipeline(
              R"({"type":"Sequence","normalizers":[{"type":"Lowercase"},{"type":"NFD"},{"type":"StripAccents"},{"type":"Prepend","prepend":"\u2581x"}]})",
              {ponte::kDeepSeekPatterns[0], ponte::kDeepSeekPatterns[1], ponte::kDeepSeekPatterns[2]}),
          "", "deepseek"),
      ponte::Tokenizer::parse(kMetaspace, "", "metaspace")};
  return all;
}

std::vector<size_t> ends_of(ponte::ScanWords scan, std::string_view text) {
  std::vector<size_t> out;
  std::array<const char*, 128> ends;
  for (const char *at = text.data(), *end = at + text.size(); at < end;)
    for (size_t i = 0, n = scan(at, end, ends.data(), ends.size()); i < n; ++i) out.push_back(static_cast<size_t>(ends[i] - text.data()));
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  size_t which = 0;
  for (const ponte::Tokenizer& t : tokenizers()) {
    const auto ids = t.encode(text);
    if (ids != t.encode(text)) std::abort();  // from the cache
    const auto spans = t.encode_with_offsets(text, ponte::AddSpecial::yes, ponte::OffsetUnit::bytes);
    if (spans.size() != ids.size()) std::abort();
    for (size_t i = 0; i < ids.size(); ++i)
      if (spans[i].id != ids[i] || spans[i].begin > spans[i].end || spans[i].end > size) std::abort();
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
  std::string valid;
  ponte::unicode::append_lossy(valid, text);
  for (const std::string& pattern : {kQwen, kLlama, std::string(ponte::kGpt2Pattern), kO200k, kTekken}) {
    const auto scanners = ponte::find_scanners(pattern);
    const auto want = ends_of(scanners[0], valid);
    for (const ponte::ScanWords scan : scanners)
      if (ends_of(scan, valid) != want) std::abort();
  }
  return 0;
}
