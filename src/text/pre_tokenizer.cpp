#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte {
namespace {

using Finder = SplitStep::Finder;
using Behavior = SplitStep::Behavior;

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

// Contiguous stretches covering `text`, each a match or not.
void find_parts(const SplitStep& step, std::string_view text, std::vector<Part>& parts) {
  parts.clear();
  switch (step.finder) {
    case Finder::scanner: {
      const char *at = text.data(), *end = at + text.size();
      std::array<const char*, 64> ends;
      for (size_t from = 0; at < end;)
        for (size_t i = 0, n = step.scan(at, end, ends.data(), ends.size()); i < n; ++i) {
          const auto to = static_cast<size_t>(ends[i] - text.data());
          parts.push_back({from, to, true});
          from = to;
        }
      break;
    }
    case Finder::regex: regex_parts(*step.regex, text, parts); break;
    case Finder::numeric: characters(text, parts, [](uint32_t c) { return (unicode::tables().classes_of(c) & unicode::kNumber) != 0; }); break;
    case Finder::punctuation:
      characters(text, parts, [](uint32_t c) {
        const auto k = unicode::tables().category_of(c);
        return (k >= unicode::Category::connector && k <= unicode::Category::other_punctuation) || (c < 128 && std::ispunct(static_cast<int>(c)));
      });
      break;
    case Finder::metaspace: {
      const uint32_t mark = unicode::decode(step.replacement.data()).code;
      characters(text, parts, [mark](uint32_t c) { return c == mark; });
    }
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

}  // namespace

ScanWords PreTokenizer::scanner() const {
  const bool plain = steps_.size() == 1 && steps_[0].finder == Finder::scanner && steps_[0].behavior != Behavior::removed &&
                     steps_[0].behavior != Behavior::contiguous && !steps_[0].invert && !changes_text(steps_[0]);
  return plain && steps_[0].behavior == Behavior::isolated ? steps_[0].scan : nullptr;
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
      if (!step.cuts) {
        words.push_back(piece);
        continue;
      }
      find_parts(step, piece, parts);
      assemble(step.behavior, parts);
      for (const Part& part : parts) words.push_back(piece.substr(part.begin, part.end - part.begin));
    }
  }
  std::erase_if(words, [](std::string_view w) { return w.empty(); });
}

}  // namespace ponte
