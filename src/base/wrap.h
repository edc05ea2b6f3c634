// Screens of text broken at spaces.
#pragma once
#include <string>
#include <string_view>

namespace ponte {

// Lines of more than `width` columns are broken at spaces, never inside a word. What follows a break stands under the line's last column of a
// table (what comes after two or more spaces, in the first half), else under the line's first word. Counts bytes: for text in ASCII.
std::string wrapped(std::string_view text, size_t width = 118);

}  // namespace ponte
