// Drives src/text from the oracle tests. Frames on stdin and stdout: a 32-bit little-endian count, then that many bytes or 32-bit ids.
//   ponte-text-tool encode DIR [--no-special]   bytes in, ids out
//   ponte-text-tool offsets DIR [--no-special]  bytes in, (id, begin, end) out in characters; ids and byte offsets must agree with the other ways
//   ponte-text-tool decode DIR [--skip]         ids in, bytes out; the stream decoder must agree
//   ponte-text-tool normalize KIND              bytes in, bytes out (nfc nfd nfkc nfkd)
//   ponte-text-tool split PATTERN               bytes in, ends of words out
//   ponte-text-tool render                      {"template", "variables"} in; "ok" or "error", newline, text out
#include <cstdio>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "text/chat_template.h"
#include "text/normalize.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace ponte {
namespace {

bool read_exactly(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

template <class T>
bool read_frame(std::vector<T>& out) {
  uint32_t n;
  if (!read_exactly(&n, 4)) return false;
  out.resize(n);
  return read_exactly(out.data(), n * sizeof(T));
}

template <class T>
void write_frame(const T* data, size_t n) {
  const auto count = static_cast<uint32_t>(n);
  std::fwrite(&count, 4, 1, stdout);
  std::fwrite(data, sizeof(T), n, stdout);
}

void encode(const Tokenizer& tokenizer, AddSpecial add_special) {
  for (std::vector<char> text; read_frame(text);) {
    const auto ids = tokenizer.encode({text.data(), text.size()}, add_special);
    write_frame(ids.data(), ids.size());
  }
}

void offsets(const Tokenizer& tokenizer, AddSpecial add_special) {
  for (std::vector<char> text; read_frame(text);) {
    const std::string_view view(text.data(), text.size());
    const auto tokens = tokenizer.encode_with_offsets(view, add_special);
    const auto in_bytes = tokenizer.encode_with_offsets(view, add_special, OffsetUnit::bytes);
    const auto ids = tokenizer.encode(view, add_special);
    require(ids.size() == tokens.size() && in_bytes.size() == ids.size(), "encode gave {} ids, encode_with_offsets {} tokens", ids.size(), tokens.size());
    for (size_t i = 0; i < ids.size(); ++i)
      require(ids[i] == tokens[i].id, "id {}: encode gave {}, encode_with_offsets {}", i, ids[i], tokens[i].id);
    const auto* numbers = reinterpret_cast<const int32_t*>(tokens.data());
    write_frame(numbers, tokens.size() * 3);
  }
}

void decode(const Tokenizer& tokenizer, SkipSpecial skip) {
  for (std::vector<int32_t> ids; read_frame(ids);) {
    const std::string text = tokenizer.decode(ids, skip);
    StreamDecoder stream(tokenizer, skip);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    require(streamed == text, "the stream decoder gave '{}', decode '{}'", streamed, text);
    write_frame(text.data(), text.size());
  }
}

void normalize(const std::string& kind) {
  using Kind = NormalizeStep::Kind;
  const Normalizer normalizer({{kind == "nfc" ? Kind::nfc : kind == "nfd" ? Kind::nfd : kind == "nfkc" ? Kind::nfkc : Kind::nfkd}});
  std::string buffer, spare;
  for (std::vector<char> text; read_frame(text);) {
    const auto out = normalizer.apply({text.data(), text.size()}, buffer, spare);
    write_frame(out.data(), out.size());
  }
}

void split(const std::string& pattern) {
  SplitStep step{.finder = SplitStep::Finder::scanner, .scan = find_scanner(pattern)};
  if (!step.scan) step.finder = SplitStep::Finder::regex, step.regex.emplace(pattern, "pattern");
  std::vector<SplitStep> steps;
  steps.push_back(std::move(step));
  const PreTokenizer pre(std::move(steps));
  std::vector<std::string_view> words;
  std::deque<std::string> storage;
  for (std::vector<char> text; read_frame(text);) {
    pre.split({text.data(), text.size()}, true, words, storage);
    std::vector<uint32_t> ends;
    for (const auto word : words) ends.push_back(static_cast<uint32_t>(word.data() + word.size() - text.data()));
    write_frame(ends.data(), ends.size());
  }
}

void render() {
  for (std::vector<char> text; read_frame(text);) {
    std::string out;
    try {
      const Json job = parse_json({text.data(), text.size()}, "job");
      out = "ok\n" + ChatTemplate::parse(job.at("template").get<std::string>(), "template").render_with(job.at("variables"));
    } catch (const UserError& e) {
      out = std::string("error\n") + e.what();
    }
    write_frame(out.data(), out.size());
  }
}

int run(int count, char** arguments) {
  const std::string command = count > 1 ? arguments[1] : "", place = count > 2 ? arguments[2] : "";
  const bool flag = count > 3;
  if (command == "encode") encode(Tokenizer::load(place), flag ? AddSpecial::no : AddSpecial::yes);
  else if (command == "offsets") offsets(Tokenizer::load(place), flag ? AddSpecial::no : AddSpecial::yes);
  else if (command == "decode") decode(Tokenizer::load(place), flag ? SkipSpecial::yes : SkipSpecial::no);
  else if (command == "normalize") normalize(place);
  else if (command == "split") split(place);
  else if (command == "render") render();
  else return 2;
  return 0;
}

}  // namespace
}  // namespace ponte

int main(int count, char** arguments) {
  try {
    return ponte::run(count, arguments);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
