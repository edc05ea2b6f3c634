#include "text/token_decoder.h"

#include <algorithm>

#include "text/bpe.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace ponte {
namespace {

using Kind = DecodeStep::Kind;

// The byte a <0xXX> token stands for, -1 for any other token.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int out = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    out = out * 16 + digit;
  }
  return out;
}

// A run of fallback bytes: its text, or one U+FFFD for every byte when it is not UTF-8.
std::string fallback_text(const std::string& bytes) {
  if (unicode::is_valid(bytes)) return bytes;
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) out += "\xEF\xBF\xBD";
  return out;
}

void byte_fallback(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  for (std::string& token : tokens) {
    if (const int byte = fallback_byte(token); byte >= 0) {
      run += static_cast<char>(byte);
      continue;
    }
    if (!run.empty()) out.push_back(fallback_text(run)), run.clear();
    out.push_back(std::move(token));
  }
  if (!run.empty()) out.push_back(fallback_text(run));
  tokens = std::move(out);
}

std::string replaced(std::string_view token, std::string_view pattern, std::string_view content) {
  std::string out;
  size_t from = 0;
  for (size_t at; (at = token.find(pattern, from)) != std::string_view::npos; from = at + pattern.size()) out.append(token, from, at - from).append(content);
  return out.append(token, from);
}

std::string replaced(std::string_view token, const DecodeStep& step) {
  if (!step.regex) return replaced(token, step.pattern, step.content);
  std::string out;
  size_t copied = 0;
  Regex::Match match;
  for (size_t from = 0, previous_end = std::string_view::npos; from <= token.size() && step.regex->find(token, from, previous_end, match);) {
    out.append(token, copied, match.begin - copied).append(step.content);
    copied = from = previous_end = match.end;
  }
  return out.append(token, copied);
}

std::string stripped(std::string_view token, const DecodeStep& step) {
  for (int64_t i = 0; i < step.start && token.starts_with(step.content); ++i) token.remove_prefix(step.content.size());
  for (int64_t i = 0; i < step.stop && token.ends_with(step.content); ++i) token.remove_suffix(step.content.size());
  return std::string(token);
}

std::string joined(const std::vector<std::string>& tokens) {
  std::string out;
  for (const std::string& token : tokens) out += token;
  return out;
}

void apply(const DecodeStep& step, std::vector<std::string>& tokens) {
  switch (step.kind) {
    case Kind::byte_level: {
      std::string all, bytes, text;
      for (const std::string& token : tokens) all += spelled_bytes(token, bytes) ? bytes : token;
      unicode::append_lossy(text, all);
      tokens.assign(1, text);
      break;
    }
    case Kind::byte_fallback: byte_fallback(tokens); break;
    case Kind::fuse: tokens.assign(1, joined(tokens)); break;
    case Kind::replace:
      for (std::string& token : tokens) token = replaced(token, step);
      break;
    case Kind::strip:
      for (std::string& token : tokens) token = stripped(token, step);
      break;
    case Kind::metaspace:
      for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = replaced(tokens[i], step.pattern, i == 0 && step.drops_first ? "" : " ");
  }
}

}  // namespace

std::string decode_tokens(const std::vector<DecodeStep>& steps, std::vector<std::string> tokens) {
  if (steps.empty()) {
    std::string out;
    for (size_t i = 0; i < tokens.size(); ++i) out += (i ? " " : "") + tokens[i];
    return out;
  }
  for (const DecodeStep& step : steps) apply(step, tokens);
  return joined(tokens);
}

TokenStream::TokenStream(const std::vector<DecodeStep>& steps) : steps_(&steps), mode_(Mode::tokens) {
  if (steps.size() == 1 && steps[0].kind == Kind::byte_level) mode_ = Mode::bytes;
  bool fused = false;
  for (const DecodeStep& step : steps) {
    if (step.kind == Kind::byte_level && steps.size() > 1) mode_ = Mode::whole;
    if (step.kind == Kind::byte_fallback) byte_fallback_ = true;
    if (fused && step.kind != Kind::strip) mode_ = Mode::whole;
    if (step.kind == Kind::fuse) fused = true;
    if (step.kind == Kind::strip) {
      if (!fused || step.stop || step.content.size() != 1 || to_strip_) mode_ = Mode::whole;
      else to_strip_ = step.start, strip_ = step.content[0];
    }
    if (step.kind == Kind::metaspace && steps.size() > 1) mode_ = Mode::whole;
  }
}

// Fallback bytes enter the steps only behind byte_fallback.
std::string TokenStream::plain(std::string token, Enter enter) {
  bool entered = enter == Enter::first;
  for (const DecodeStep& step : *steps_) {
    entered = entered || step.kind == Kind::byte_fallback;
    if (entered && step.kind == Kind::replace) token = replaced(token, step);
    if (step.kind == Kind::metaspace) token = replaced(token, step.pattern, first_ && step.drops_first ? "" : " ");
  }
  size_t cut = 0;
  for (; to_strip_ && cut < token.size(); --to_strip_)
    if (token[cut] == strip_) ++cut;
    else to_strip_ = 1;
  if (steps_->empty() && !first_) token.insert(0, " ");
  first_ = false;
  return token.substr(cut);
}

std::string TokenStream::flush_bytes() {
  if (bytes_.empty()) return {};
  std::string run;
  run.swap(bytes_);
  return plain(fallback_text(run), Enter::behind_fallback);
}

std::string TokenStream::push(std::string_view token) {
  if (mode_ == Mode::whole) {
    tokens_.emplace_back(token);
    return {};
  }
  if (mode_ == Mode::tokens) {
    if (const int byte = byte_fallback_ ? fallback_byte(token) : -1; byte >= 0) {
      bytes_ += static_cast<char>(byte);
      return {};
    }
    std::string out = flush_bytes();
    return out + plain(std::string(token), Enter::first);
  }
  std::string bytes, out;
  bytes_ += spelled_bytes(token, bytes) ? std::string_view(bytes) : token;
  const size_t tail = unicode::unfinished_tail(bytes_);
  unicode::append_lossy(out, std::string_view(bytes_).substr(0, bytes_.size() - tail));
  bytes_.erase(0, bytes_.size() - tail);
  return out;
}

std::string TokenStream::finish() {
  std::string out;
  if (mode_ == Mode::whole) out = decode_tokens(*steps_, tokens_);
  else if (mode_ == Mode::tokens) out = flush_bytes();
  else unicode::append_lossy(out, bytes_);
  *this = TokenStream(*steps_);
  return out;
}

}  // namespace ponte
