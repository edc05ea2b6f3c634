// Each preset is its 16-bit base and what its name adds.
#include "config/precision.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {
namespace {

MixedPrecisionConfig base_preset(std::string_view name) {
  MixedPrecisionConfig p;
  p.name = name;
  if (name.starts_with("fp32")) {
    p.fp32 = true;
    p.params_dtype = p.pipeline_dtype = DType::f32;
  } else if (name.starts_with("fp16")) {
    p.fp16 = true;
    p.params_dtype = p.pipeline_dtype = DType::f16;
    p.grad_reduce_in_fp32 = false;
  } else {
    p.bf16 = true;
    p.params_dtype = p.pipeline_dtype = DType::bf16;
  }
  return p;
}

// The layers at either end that stay in 16 bits, for tensorwise scaling.
void keep_ends(MixedPrecisionConfig& p, int64_t layers) {
  p.first_last_layers_bf16 = true;
  p.num_layers_at_start_in_bf16 = p.num_layers_at_end_in_bf16 = layers;
}

void set_fp8(MixedPrecisionConfig& p, const char* format, const char* recipe, bool param_gather) {
  p.fp8 = format;
  p.fp8_recipe = recipe;
  p.fp8_param_gather = param_gather;
}

}  // namespace

const std::vector<std::string>& precision_preset_names() {
  static const std::vector<std::string> names = {"bf16_mixed",
                                                 "fp16_mixed",
                                                 "fp32",
                                                 "bf16_with_fp8_delayed_scaling_mixed",
                                                 "fp16_with_fp8_delayed_scaling_mixed",
                                                 "bf16_with_mxfp8_mixed",
                                                 "fp16_with_mxfp8_mixed",
                                                 "bf16_with_fp8_current_scaling_mixed",
                                                 "fp16_with_fp8_current_scaling_mixed",
                                                 "nemotron_h_bf16_with_fp8_current_scaling_mixed",
                                                 "nanov2_bf16_with_fp8_current_scaling_mixed",
                                                 "bf16_with_fp8_subchannel_scaling_mixed",
                                                 "fp16_with_fp8_subchannel_scaling_mixed",
                                                 "bf16_with_nvfp4_mixed"};
  return names;
}

MixedPrecisionConfig precision_preset(std::string_view given) {
  std::string name(given);
  std::replace(name.begin(), name.end(), '-', '_');
  const auto& names = precision_preset_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    const std::string hint = nearest(name, names);
    fail("mixed_precision: no preset \"{}\"{}; there are {}", given, hint.empty() ? "" : "; did you mean " + hint + "?", join(names, ", "));
  }
  MixedPrecisionConfig p = base_preset(name);
  if (name.find("fp8_delayed") != std::string::npos) set_fp8(p, "hybrid", "delayed", true);
  if (name.find("mxfp8") != std::string::npos) set_fp8(p, "e4m3", "mxfp8", true);
  if (name.find("fp8_subchannel") != std::string::npos) set_fp8(p, "hybrid", "blockwise", false);
  if (name.find("fp8_current") != std::string::npos) {
    const bool nano = name.starts_with("nanov2");
    set_fp8(p, "hybrid", nano ? "blockwise" : "tensorwise", true);
    keep_ends(p, nano || name.starts_with("nemotron") ? 2 : 1);
  }
  if (name.find("nvfp4") != std::string::npos) {
    p.fp4 = "e2m1";
    p.fp4_param_gather = true;
  }
  return p;
}

}  // namespace ponte
