// The mixed precision presets, under Megatron Bridge's names (mixed_precision.py).
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace ponte {

// "bf16_mixed", "fp16_mixed", "fp32", the 8-bit and 4-bit ones; hyphens count as underscores. UserError naming the nearest otherwise.
MixedPrecisionConfig precision_preset(std::string_view name);
const std::vector<std::string>& precision_preset_names();

}  // namespace ponte
