// The Unicode normal forms as a list of changes, for texts whose offsets are asked for.
//
// Source: Unicode Standard Annex 15; what counts as a change as in the crate unicode-normalization-alignments.
#pragma once
#include <span>
#include <string_view>
#include <vector>

#include "text/traced_text.h"

namespace ponte {

enum class Composition { no, yes };
enum class Compatibility { no, yes };

std::vector<TextChange> normal_form(std::string_view text, Composition composition, Compatibility compatibility);

// Characters younger than the Unicode version the forms follow (9.0): they stay as they are and nothing combines across them. First and last of runs.
struct CodeRun {
  uint32_t first, last;
};
std::span<const CodeRun> normalization_barriers();
bool is_normalization_barrier(uint32_t code);

}  // namespace ponte
