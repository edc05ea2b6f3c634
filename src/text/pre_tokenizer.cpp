#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "base/errors.h"
#include "text/bpe.h"
#include "text/normal_form.h"
#include "text/normalize.h"
#include "text/traced_text.h"
#include "text/unicode.h"

namespace ponte {
namespace {

using Finder = SplitStep::Finder;
using Behavior = SplitStep::Behavior;

constexpr CodeRun kPunctuation[] = {
#include "text/punctuation.inc"
};

struct Part {
  size_t begin, end;
  bool match;
};

template <class IsMatch>
void characters(std::string_view text, std::vector<Part>& parts, IsMatch&& is_match) {
  size_t from = 0;
  for (size_t at = 0; at < text.size();) {
    const auto c = unicode::decode(text.data() + at);
    if (is_match(c.code)) {
      if (from < at) parts.push_back({from, at, false});
      parts.push_back({at, at + c.bytes, true});
      from = at + c.bytes;
    }
    at += c.bytes;
  }
  if (from < text.size()) parts.push_back({from, text.size(), false});
}

void regex_parts(const Regex& regex, std::string_view text, std::vector<Part>& parts) {
  size_t from = 0, previous_end = std::string_view::npos;
  Regex::Match match;
  while (from <= text.size() && regex.find(text, from, previous_end, match)) {
    const size_t last = parts.empty() ? 0 : parts.back().end;
    if (last != match.begin) parts.push_back({last, match.begin, false});
    parts.push_back({match.begin, match.end, true});
    from = previous_end = match.end;
  }
  const size_t last = parts.empty() ? 0 : parts.back().end;
  if (last != text.size()) parts.push_back({last, text.size(), false});
}

// The library's idea of punctuation is that of Unicode 8.
bool is_punctuation(uint32_t c) {
  if (c < 0x80) return std::ispunct(static_cast<int>(c));
  const auto begins_later = [](uint32_t code, const CodeRun& run) { return code < run.first; };
  const CodeRun* after = std::upper_bound(std::begin(kPunctuation), std::end(kPunctuation), c, begins_later);
  return after != std::begin(kPunctuation) && c <= after[-1].last;
}

// Runs of word characters, and runs of characters that are neither that nor white space.
void word_parts(std::string_view text, std::vector<Part>& parts) {
  enum Kind { space, word, other };
  const auto kind_of = [](uint32_t c) {
    return unicode::is_word(c) ? word : unicode::tables().classes_of(c) & unicode::kSpace ? space : other;
  };
  size_t from = 0;
  for (size_t at = 0; at < text.size();) {
    const Kind kind = kind_of(unicode::decode(text.data() + from).code);
    while (at < text.size()) {
      const auto c = unicode::decode(text.data() + at);
      if (kind_of(c.code) != kind) break;
      at += c.bytes;
    }
    parts.push_back({from, at, kind != space});
    from = at;
  }
}

void stretches(std::string_view text, size_t length, std::vector<Part>& parts) {
  for (size_t at = 0; at < text.size();) {
    const size_t from = at;
    for (size_t i = 0; i < length && at < text.size(); ++i) at += unicode::decode(text.data() + at).bytes;
    parts.push_back({from, at, true});
  }
}

void scanner_parts(ScanWords scan, std::string_view text, std::vector<Part>& parts) {
  const char *at = text.data(), *end = at + text.size();
  std::array<const char*, 64> ends;
  for (size_t from = 0; at < end;)
    for (size_t i = 0, n = scan(at, end, ends.data(), ends.size()); i < n; ++i) {
      const auto to = static_cast<size_t>(ends[i] - text.data());
      parts.push_back({from, to, true});
      from = to;
    }
}

// Contiguous stretches covering `text`, each a match or not.
void find_parts(const SplitStep& step, std::string_view text, std::vector<Part>& parts) {
  const auto& tables = unicode::tables();
  parts.clear();
  switch (step.finder) {
    case Finder::scanner: scanner_parts(step.scan, text, parts); break;
    case Finder::regex: regex_parts(*step.regex, text, parts); break;
    case Finder::numeric: characters(text, parts, [&](uint32_t c) { return (tables.classes_of(c) & unicode::kNumber) != 0; }); break;
    case Finder::punctuation: characters(text, parts, is_punctuation); break;
    case Finder::whitespace: characters(text, parts, [&](uint32_t c) { return (tables.classes_of(c) & unicode::kSpace) != 0; }); break;
    case Finder::character: characters(text, parts, [&](uint32_t c) { return c == step.character; }); break;
    case Finder::words: word_parts(text, parts); break;
    case Finder::fixed_length: stretches(text, step.length, parts);
  }
  if (step.invert)
    for (Part& part : parts) part.match = !part.match;
}

// NormalizedString::split: how matches and gaps become pieces; a removed part is dropped.
void assemble(Behavior behavior, std::vector<Part>& parts) {
  if (behavior == Behavior::isolated) return;
  if (behavior == Behavior::removed) {
    std::erase_if(parts, [](const Part& p) { return p.match; });
    return;
  }
  const bool backwards = behavior == Behavior::merged_with_next;
  if (backwards) std::reverse(parts.begin(), parts.end());
  std::vector<Part> out;
  bool previous = false;
  for (const Part& part : parts) {
    const bool joins = behavior == Behavior::contiguous ? part.match == previous : part.match && !previous;
    if (joins && !out.empty()) (backwards ? out.back().begin : out.back().end) = backwards ? part.begin : part.end;
    else out.push_back(part);
    previous = part.match;
  }
  if (backwards) std::reverse(out.begin(), out.end());
  parts = std::move(out);
}

bool changes_text(const SplitStep& step) { return step.prepend != SplitStep::Prepend::never || !step.replacement.empty(); }

// The piece with spaces replaced and the prefix put before it.
std::string rewritten(const SplitStep& step, std::string_view piece, bool at_start) {
  std::string out;
  if (step.replacement.empty()) out = piece;
  else
    for (const char c : piece)
      if (c == ' ') out += step.replacement;
      else out += c;
  const bool wanted = step.prepend == SplitStep::Prepend::always || (step.prepend == SplitStep::Prepend::first && at_start);
  return wanted && !out.starts_with(step.prefix) ? step.prefix + out : out;
}

void rewrite(const SplitStep& step, TracedText& piece) {
  if (!step.replacement.empty()) {
    std::vector<std::pair<size_t, size_t>> spaces;
    for (size_t at = piece.text().find(' '); at != std::string::npos; at = piece.text().find(' ', at + 1)) spaces.emplace_back(at, at + 1);
    piece.replace(spaces, step.replacement);
  }
  const bool wanted = step.prepend == SplitStep::Prepend::always || (step.prepend == SplitStep::Prepend::first && piece.start() == 0);
  if (wanted && !piece.text().starts_with(step.prefix)) piece.prepend(step.prefix);
}

std::string spelled(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += byte_spelling()[static_cast<uint8_t>(c)];
  return out;
}

void spell(TracedText& piece) {
  static const Normalizer speller({{NormalizeStep::Kind::byte_level}});
  speller.apply(piece);
}

}  // namespace

ScanWords PreTokenizer::scanner() const {
  const bool plain = steps_.size() == 1 && steps_[0].finder == Finder::scanner && !steps_[0].invert && !changes_text(steps_[0]) && !steps_[0].spells;
  return plain && steps_[0].behavior == Behavior::isolated ? steps_[0].scan : nullptr;
}

PreTokenizer::Asks PreTokenizer::asks_for_beginning() const {
  Asks out = Asks::never;
  for (size_t i = 0; i < steps_.size(); ++i)
    if (steps_[i].prepend == SplitStep::Prepend::first) out = i || out == Asks::late ? Asks::late : Asks::first;
  return out;
}

void PreTokenizer::split(std::string_view text, bool at_start, std::vector<std::string_view>& words, std::deque<std::string>& storage) const {
  words.assign(1, text);
  std::vector<std::string_view> pieces;
  std::vector<Part> parts;
  for (const SplitStep& step : steps_) {
    pieces.swap(words);
    words.clear();
    for (size_t i = 0; i < pieces.size(); ++i) {
      std::string_view piece = pieces[i];
      if (piece.empty()) continue;
      if (changes_text(step)) piece = storage.emplace_back(rewritten(step, piece, at_start && i == 0));
      parts.assign(1, {0, piece.size(), true});
      if (step.cuts) {
        find_parts(step, piece, parts);
        assemble(step.behavior, parts);
      }
      for (const Part& part : parts) {
        const std::string_view word = piece.substr(part.begin, part.end - part.begin);
        words.push_back(step.spells ? storage.emplace_back(spelled(word)) : word);
      }
    }
  }
  std::erase_if(words, [](std::string_view w) { return w.empty(); });
}

std::vector<TracedText> PreTokenizer::split(TracedText text) const {
  std::vector<TracedText> words, pieces;
  words.push_back(std::move(text));
  std::vector<Part> parts;
  for (const SplitStep& step : steps_) {
    pieces.swap(words);
    words.clear();
    for (TracedText& piece : pieces) {
      if (piece.empty()) continue;
      rewrite(step, piece);
      if (!step.cuts) {
        words.push_back(std::move(piece));
      } else {
        find_parts(step, piece.text(), parts);
        assemble(step.behavior, parts);
        for (const Part& part : parts)
          if (part.begin < part.end) words.push_back(piece.slice(part.begin, part.end));
      }
    }
    if (step.spells)
      for (TracedText& word : words) spell(word);
  }
  return words;
}

}  // namespace ponte
