// Template text to tokens, under trim_blocks and lstrip_blocks. Source: jinja2.lexer.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace ponte::jinja {

struct Token {
  enum class Kind { data, variable_begin, variable_end, block_begin, block_end, name, string, integer, real, op, end };
  Kind kind;
  std::string text;  // of a string: its value
  int line;
};

// UserError "ORIGIN, line N: ..." on text that is no template.
std::vector<Token> lex(std::string_view source, std::string_view origin);

}  // namespace ponte::jinja
