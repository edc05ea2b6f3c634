// Which layers are of which kind, where Megatron says it with one number (megatron/core/models/gpt: gpt_layer_specs.py,
// experimental_attention_variant_module_specs.py) or Megatron-LM's command line with an expression (megatron/training/arguments.py, moe_freq_type).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

struct ConfigDraft;

// moe_layer_freq=N: 1 (experts) in layers 0, N, 2N, ..., 0 (dense) in the others. HF's decoder_sparse_step counts from 1: layers N-1, 2N-1, ...
std::vector<int64_t> periodic_expert_layers(int64_t num_layers, int64_t every);

// linear_attention_freq=N: full attention in layers N-1, 2N-1, ..., linear attention in the others.
std::vector<std::string> periodic_layer_types(int64_t num_layers, int64_t every);

// "([0]+[1]*23)": lists of integers, + (one behind the other), * (a list so many times), parentheses. UserError naming `subject` and the character at which
// it is none of this; beyond 4096 characters, 64 levels or 65536 layers.
std::vector<int64_t> layer_expression(std::string_view text, std::string_view subject);
inline bool is_layer_expression(std::string_view text) { return text.find('[') != std::string_view::npos; }

// When all is said, and so the number of layers: model.moe_layer_freq and model.layer_types become the lists of what was said as numbers.
void write_out_layer_patterns(ConfigDraft& draft);

}  // namespace ponte
