// Each step of a normalizer, on plain text and on text that keeps track of where it comes from. Steps that go character by character are
// written once, as changes.
#include <algorithm>

#include "base/errors.h"
#include "text/bpe.h"
#include "text/normal_form.h"
#include "text/normalize.h"
#include "text/regex.h"
#include "text/sentencepiece_normalizer.h"
#include "text/traced_text.h"
#include "text/unicode.h"

namespace ponte {
namespace {

using Kind = NormalizeStep::Kind;

struct CaseRun {
  uint32_t first, last, step;
  int32_t added;
};
constexpr CaseRun kLowercase[] = {
#include "text/lowercase.inc"
};
constexpr CodeRun kMarks[] = {
#include "text/combining_marks.inc"
};

// The last run that begins at or before `code`; null when `code` is before all of them.
template <class Run, size_t N>
const Run* run_of(const Run (&runs)[N], uint32_t code) {
  const Run* after = std::upper_bound(std::begin(runs), std::end(runs), code, [](uint32_t c, const Run& run) { return c < run.first; });
  return after == std::begin(runs) ? nullptr : after - 1;
}

uint32_t lowercase(uint32_t code) {
  if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + 32 : code;
  const CaseRun* run = run_of(kLowercase, code);
  return run && code <= run->last && (code - run->first) % run->step == 0 ? code + static_cast<uint32_t>(run->added) : code;
}

bool is_combining_mark(uint32_t code) {
  const CodeRun* run = run_of(kMarks, code);
  return run && code <= run->last;
}

// What SentencePiece's nmt rules drop, and what they take for a space.
bool nmt_drops(uint32_t c) { return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F; }
bool nmt_space(uint32_t c) {
  return c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
         c == 0xFEFF || c == 0xFFFD;
}



struct Changes {
  std::vector<TextChange> list;
  size_t removed_first = 0;

  void drop() {
    if (list.empty()) ++removed_first;
    else --list.back().change;
  }
};

// A step that goes character by character, as changes.
Changes character_changes(Kind kind, std::string_view text) {
  Changes out;
  out.list.reserve(text.size());
  const auto& alphabet = byte_spelling();
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    const auto [code, bytes] = unicode::decode(at);
    if (kind == Kind::byte_level) {
      for (uint32_t i = 0; i < bytes; ++i) out.list.push_back({unicode::decode(alphabet[static_cast<uint8_t>(at[i])].data()).code, i ? 1 : 0});
    } else if (kind == Kind::lowercase) {
      out.list.push_back({code == 0x130 ? 'i' : lowercase(code), 0});
      if (code == 0x130) out.list.push_back({0x307, 1});
    } else if (kind == Kind::strip_accents ? is_combining_mark(code) : nmt_drops(code)) {
      out.drop();
    } else {
      out.list.push_back({kind == Kind::nmt && nmt_space(code) ? ' ' : code, 0});
    }
    at += bytes;
  }
  return out;
}

using Matches = std::vector<std::pair<size_t, size_t>>;

Matches matches_of(const NormalizeStep& step, std::string_view text) {
  Matches out;
  if (!step.regex) {
    for (size_t at = text.find(step.pattern); at != std::string_view::npos; at = text.find(step.pattern, at + step.pattern.size()))
      out.emplace_back(at, at + step.pattern.size());
    return out;
  }
  Regex::Match match;
  for (size_t from = 0, previous_end = std::string_view::npos; from <= text.size() && step.regex->find(text, from, previous_end, match);) {
    out.emplace_back(match.begin, match.end);
    from = previous_end = match.end;
  }
  return out;
}

std::string_view replace_all(std::string_view text, const NormalizeStep& step, std::string& buffer) {
  const Matches matches = matches_of(step, text);
  if (matches.empty()) return text;
  buffer.clear();
  size_t from = 0;
  for (const auto& [begin, end] : matches) {
    buffer.append(text, from, begin - from).append(step.content);
    from = end;
  }
  return buffer.append(text, from);
}

bool is_ascii(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) >= 0x80; });
}

std::string_view stripped(std::string_view text, Kind side) {
  const auto space = [](const char* p) { return unicode::tables().classes_of(unicode::decode(p).code) & unicode::kSpace; };
  if (side == Kind::strip_left)
    while (!text.empty() && space(text.data())) text.remove_prefix(unicode::decode(text.data()).bytes);
  else
    for (const char* p; !text.empty() && space(p = unicode::previous(text.data() + text.size()));) text = {text.data(), p};
  return text;
}

std::string_view apply_step(const NormalizeStep& step, std::string_view text, std::string& buffer) {
  switch (step.kind) {
    case Kind::nfc: return to_nfc(text, buffer);
    case Kind::nfd:
    case Kind::nfkc:
    case Kind::nfkd:
      if (is_ascii(text)) return text;
      buffer.clear();
      append_normal_form(buffer, text, step.kind);
      return buffer;
    case Kind::replace: return replace_all(text, step, buffer);
    case Kind::prepend:
      if (text.empty()) return text;
      buffer = step.content;
      return buffer.append(text);
    case Kind::strip_left:
    case Kind::strip_right: return stripped(text, step.kind);
    case Kind::sentencepiece:
      step.sentencepiece->normalize(text, buffer, nullptr);
      return buffer;
    default:
      buffer.clear();
      for (const TextChange& change : character_changes(step.kind, text).list) unicode::append(buffer, change.code);
      return buffer;
  }
}

void trace_step(const NormalizeStep& step, TracedText& text) {
  const std::string& now = text.text();
  switch (step.kind) {
    case Kind::nfc: return text.transform(normal_form(now, Composition::yes, Compatibility::no));
    case Kind::nfd: return text.transform(normal_form(now, Composition::no, Compatibility::no));
    case Kind::nfkc: return text.transform(normal_form(now, Composition::yes, Compatibility::yes));
    case Kind::nfkd: return text.transform(normal_form(now, Composition::no, Compatibility::yes));
    case Kind::replace: return text.replace(matches_of(step, now), step.content);
    case Kind::prepend: return text.prepend(step.content);
    case Kind::strip_left:
    case Kind::strip_right: {
      const std::string_view kept = stripped(now, step.kind);
      const auto from = static_cast<size_t>(kept.data() - now.data());
      return text.keep(from, from + kept.size());
    }
    case Kind::sentencepiece: {
      std::string normal;
      std::vector<size_t> positions;
      step.sentencepiece->normalize(now, normal, &positions);
      return text.assign(std::move(normal), positions);
    }
    default: {
      const Changes changes = character_changes(step.kind, now);
      text.transform(changes.list, changes.removed_first);
    }
  }
}

}  // namespace

std::string_view Normalizer::apply(std::string_view text, std::string& buffer, std::string& spare) const {
  std::string *into = &buffer, *other = &spare;
  for (const NormalizeStep& step : steps_) {
    text = apply_step(step, text, *into);
    if (text.data() >= into->data() && text.data() <= into->data() + into->size()) std::swap(into, other);
  }
  return text;
}

void Normalizer::apply(TracedText& text) const {
  for (const NormalizeStep& step : steps_) trace_step(step, text);
}

bool Normalizer::keeps_beginning() const {
  return std::all_of(steps_.begin(), steps_.end(), [](const NormalizeStep& step) {
    if (step.kind == Kind::replace) return !step.regex && !step.content.empty() && unicode::decode(step.pattern.data()).bytes == step.pattern.size();
    return step.kind <= Kind::nfkd || step.kind == Kind::prepend || step.kind == Kind::lowercase || step.kind == Kind::byte_level;
  });
}

}  // namespace ponte
