// The lines every conversion command ends with.
#pragma once
#include "convert/convert.h"

namespace ponte {

// What was cast and what was left out, tensor by tensor (first lines only when there are many), on stderr.
void print_losses(const ConversionReport& report);
// "Qwen3ForCausalLM: 311 tensors, 1.2 GB in 0.8 s (1.5 GB/s)".
std::string summary_line(const ConversionReport& report);
// --torch-dtype; "" is none.
std::optional<DType> dtype_flag(const std::string& text);
// --ckpt-format: torch_dist or fsdp_dtensor, else a UserError.
Container container_flag(const std::string& text);

}  // namespace ponte
