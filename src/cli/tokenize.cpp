// `ponte tokenize`: text to ids and back, to look at what a tokenizer does. Reads standard input whole.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "base/errors.h"
#include "cli/commands.h"
#include "text/tokenizer.h"

namespace ponte {
namespace {

std::string read_input() { return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()}; }

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> out;
  constexpr const char* kBetween = " \t\r\n,[]";
  for (size_t at = text.find_first_not_of(kBetween); at != std::string::npos; at = text.find_first_not_of(kBetween, at)) {
    const size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    int32_t id = 0;
    const auto [stop, problem] = std::from_chars(text.data() + at, text.data() + end, id);
    require(problem == std::errc() && stop == text.data() + end, "standard input: '{}' is not a token id", text.substr(at, end - at));
    out.push_back(id);
    at = end;
  }
  return out;
}

// One token a line: its id and its text, with control characters spelled out; `spans`, when there are any, say where each stands in the input.
void print_tokens(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, const std::vector<TokenSpan>& spans) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids[i];
    if (!spans.empty()) std::printf("%8u %8u ", spans[i].begin, spans[i].end);
    std::string text;
    for (const char c : tokenizer.decode(std::vector<int32_t>{id}))
      if (c == '\n') text += "\\n";
      else if (c == '\t') text += "\\t";
      else if (c == '\r') text += "\\r";
      else text += c;
    std::printf("%8d  |%s|%s\n", id, text.c_str(), tokenizer.is_special(id) ? "  special" : "");
  }
}

}  // namespace

int run_tokenize(const Arguments& arguments) {
  CLI::App app("Text on standard input to token ids, or ids to text.", "ponte tokenize");
  std::string folder, offsets;
  bool ids_only = false, decode = false, add_special = true, skip_special = false;
  app.add_option("--tokenizer", folder, "folder with tokenizer.json or tokenizer.model, or such a file")->required();
  app.add_flag("--ids", ids_only, "print the ids alone, on one line");
  app.add_option("--offsets", offsets, "print where each token begins and ends in the input, in characters or bytes")
      ->check(CLI::IsMember({"characters", "bytes"}))
      ->expected(0, 1)
      ->default_str("characters");
  app.add_flag("--decode", decode, "read ids, print their text");
  app.add_flag("!--no-special", add_special, "leave out what the post-processor puts around a text");
  app.add_flag("--skip-special", skip_special, "with --decode: leave out special tokens");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  const Tokenizer tokenizer = Tokenizer::load(folder);
  const std::string input = read_input();
  if (decode) {
    const std::string text = tokenizer.decode(parse_ids(input), skip_special ? SkipSpecial::yes : SkipSpecial::no);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  }
  const AddSpecial add = add_special ? AddSpecial::yes : AddSpecial::no;
  std::vector<TokenSpan> spans;
  std::vector<int32_t> ids;
  if (app.count("--offsets")) {
    require(!ids_only, "--offsets and --ids are about different output");
    spans = tokenizer.encode_with_offsets(input, add, offsets == "bytes" ? OffsetUnit::bytes : OffsetUnit::characters);
    for (const TokenSpan& span : spans) ids.push_back(span.id);
  } else {
    ids = tokenizer.encode(input, add);
  }
  if (!ids_only) {
    print_tokens(tokenizer, ids, spans);
    return 0;
  }
  for (size_t i = 0; i < ids.size(); ++i) std::printf("%s%d", i ? " " : "", ids[i]);
  std::printf("\n");
  return 0;
}

}  // namespace ponte
