// Tokens to a tree. Source: jinja2.parser. Statements that reach outside the template (include, import, extends, block) are errors.
#pragma once
#include <string_view>

#include "text/jinja_ast.h"

namespace ponte::jinja {

Body parse_template(std::string_view source, std::string_view origin);

}  // namespace ponte::jinja
