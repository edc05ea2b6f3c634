#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte {

struct Regex::Code {
  std::string source;
  pcre2_code* code = nullptr;
  pcre2_match_context* limits = nullptr;
  ~Code() {
    pcre2_code_free(code);
    pcre2_match_context_free(limits);
  }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Regex::Regex(std::string_view pattern, std::string_view origin) : code_(std::make_unique<Code>()) {
  require(unicode::is_valid(pattern), "{}: a split pattern is not UTF-8", origin);
  code_->source = pattern;
  const std::string translated = translate_pattern(pattern, origin);
  int error;
  PCRE2_SIZE where;
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(pcre2_compile_context_create(nullptr),
      pcre2_compile_context_free);
  PONTE_ASSERT(context);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), PCRE2_UTF | PCRE2_NO_UTF_CHECK | PCRE2_DOLLAR_ENDONLY,
                              &error, &where, context.get());
  if (!code_->code) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    fail("{}: pattern '{}' does not compile: {}", origin, pattern, reinterpret_cast<const char*>(message));
  }
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);  // without it the interpreter runs
  code_->limits = pcre2_match_context_create(nullptr);
  PONTE_ASSERT(code_->limits);
  pcre2_set_match_limit(code_->limits, 100'000'000);
}

Regex Regex::literal(std::string_view text, std::string_view origin) {
  require(!text.empty(), "{}: an empty split pattern", origin);
  std::string pattern;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c)) && c > ' ') pattern += '\\';
    pattern += c;
  }
  return Regex(pattern, origin);
}

bool Regex::find(std::string_view text, size_t from, size_t previous_end, Match& match) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  PONTE_ASSERT(data);
  while (from <= text.size()) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data.get(), code_->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)  // a very long match: the interpreter keeps its state on the heap
      rc = pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), code_->limits);
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    require(rc >= 0, "pattern '{}': matching failed at byte {} of {} (PCRE2 error {})", code_->source, from, text.size(), rc);
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(data.get());
    match = {found[0], found[1]};
    if (match.end > match.begin || match.end != previous_end) return true;
    if (match.end == text.size()) return false;
    from = match.end + unicode::decode(text.data() + match.end).bytes;
  }
  return false;
}

}  // namespace ponte
