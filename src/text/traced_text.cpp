#include "text/traced_text.h"

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte {

TracedText::TracedText(std::string_view original) : text_(original) {
  require(original.size() < UINT32_MAX, "offsets of a text of {} bytes, at most {} are supported", original.size(), UINT32_MAX - 1);
  origins_.reserve(text_.size());
  for (uint32_t at = 0; at < text_.size();) {
    const uint32_t bytes = unicode::decode(text_.data() + at).bytes;
    origins_.insert(origins_.end(), bytes, {at, at + bytes});
    at += bytes;
  }
}

TracedText::Origin TracedText::origin(size_t from, size_t to) const {
  if (from >= to || to > origins_.size()) return {static_cast<uint32_t>(start_ + from), static_cast<uint32_t>(start_ + to)};
  return {origins_[from].begin, origins_[to - 1].end};
}

void TracedText::transform(std::span<const TextChange> changes, size_t removed_first) {
  size_t at = 0;  // in the old text
  const auto skip = [&](size_t characters) {
    for (; characters && at < text_.size(); --characters) at += unicode::decode(text_.data() + at).bytes;
  };
  skip(removed_first);
  std::string text;
  std::vector<Origin> origins;
  text.reserve(text_.size());
  origins.reserve(origins_.size());
  for (const auto& [code, change] : changes) {
    const size_t source = change > 0 ? at - 1 : at;  // what is put in shares the origin of what is before it
    const Origin origin = source < origins_.size() ? origins_[source] : Origin{start_, start_};
    if (change <= 0) skip(1 + static_cast<size_t>(-change));
    const size_t before = text.size();
    unicode::append(text, code);
    origins.insert(origins.end(), text.size() - before, origin);
  }
  text_ = std::move(text);
  origins_ = std::move(origins);
}

void TracedText::prepend(std::string_view content) {
  if (text_.empty()) return;
  // The first character stands in the place of the text's own first, which moves behind it; in effect all take the origin of that one.
  const size_t first = content.empty() ? 0 : unicode::decode(content.data()).bytes;
  const size_t own = unicode::decode(text_.data()).bytes;
  std::vector<Origin> front(first, origins_[0]);
  front.insert(front.end(), content.size() - first + own, origins_[own - 1]);
  front.insert(front.end(), origins_.begin() + static_cast<std::ptrdiff_t>(own), origins_.end());
  text_.insert(0, content);
  origins_ = std::move(front);
}

void TracedText::replace(std::span<const std::pair<size_t, size_t>> matches, std::string_view content) {
  std::string text;
  std::vector<Origin> origins;
  size_t copied = 0;
  const auto copy = [&](size_t to) {
    text.append(text_, copied, to - copied);
    origins.insert(origins.end(), origins_.begin() + static_cast<std::ptrdiff_t>(copied), origins_.begin() + static_cast<std::ptrdiff_t>(to));
  };
  for (const auto& [begin, end] : matches) {
    copy(begin);
    text += content;
    origins.insert(origins.end(), content.size(), end ? origins_[end - 1] : Origin{start_, start_});
    copied = end;
  }
  copy(text_.size());
  text_ = std::move(text);
  origins_ = std::move(origins);
}

void TracedText::keep(size_t from, size_t to) {
  text_ = text_.substr(from, to - from);
  origins_ = std::vector<Origin>(origins_.begin() + static_cast<std::ptrdiff_t>(from), origins_.begin() + static_cast<std::ptrdiff_t>(to));
}

void TracedText::assign(std::string text, std::span<const size_t> positions) {
  PONTE_ASSERT(positions.size() == text.size() + 1);
  const auto origin_of = [&](size_t at) { return at < origins_.size() ? origins_[at].begin : origins_.empty() ? start_ : origins_.back().end; };
  std::vector<Origin> origins(text.size());
  for (size_t i = 0; i < text.size(); ++i) origins[i] = {origin_of(positions[i]), origin_of(positions[i + 1])};
  text_ = std::move(text);
  origins_ = std::move(origins);
}

TracedText TracedText::slice(size_t from, size_t to) const {
  TracedText out;
  out.text_ = text_.substr(from, to - from);
  out.origins_.assign(origins_.begin() + static_cast<std::ptrdiff_t>(from), origins_.begin() + static_cast<std::ptrdiff_t>(to));
  out.start_ = origin(from, to).begin;
  return out;
}

}  // namespace ponte
