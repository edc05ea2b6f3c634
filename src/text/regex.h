// A split pattern without a scanner of its own, matched by PCRE2 (JIT) with the meaning Oniguruma gives it in `tokenizers`.
//
// Character properties are those of Unicode 16.0 whatever PCRE2's own tables say. Constructs whose meaning differs between the two engines, or
// that are not known here, are a UserError naming the construct.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace ponte {

class Regex {
 public:
  Regex(std::string_view pattern, std::string_view origin);
  static Regex literal(std::string_view text, std::string_view origin);  // matches exactly this text
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  struct Match {
    size_t begin, end;
  };
  // The first match in `text` at or after `from`; false when there is none. An empty match right behind `previous_end` does not count.
  // Safe from several threads. UserError when the pattern needs more room than the limits allow.
  bool find(std::string_view text, size_t from, size_t previous_end, Match& match) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

// The pattern in PCRE2's syntax.
std::string translate_pattern(std::string_view pattern, std::string_view origin);

}  // namespace ponte
