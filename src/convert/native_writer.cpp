#include "convert/native_writer.h"

#include "base/checked.h"
#include "base/errors.h"

namespace ponte {
namespace {

// Chunks in the order of the writer's numbers.
struct NativePlan {
  std::vector<Target> targets;
  std::vector<TensorSpec> specs;
  std::vector<ManifestChunk> chunks;
  std::vector<std::string> casts;
};

// A norm whose offset does not invert in its type stays fp32.
DType native_dtype(const SegmentSource& source, size_t r, std::optional<DType> asked) {
  const Rule& rule = source.rules().rules[r];
  const DType plain = stored_dtype(rule, source.dtype(rule), asked);
  if (source.offset(r) == 0) return plain;
  for (size_t s = 0; s < rule.segments.size(); ++s) {
    const Shape& shape = rule.segments[s].shape;
    Target target{rule.name(), plain, checked_numel(shape, rule.leaf), {}, source.offset(r)};
    source.append_feeds(r, s, dense_window(Shape(shape.size(), 0), shape), target.copies);
    if (!inverts(source.buffers(), target, plain)) return DType::f32;
  }
  return plain;
}

struct PlannedContent {
  const NativeContent& content;
  size_t rule;
  DType dtype;
  int64_t first_buffer;  // of the content's buffers among all
};

void plan_segment(const PlannedContent& p, size_t s, Dialect dialect, NativePlan& plan) {
  const SegmentSource& source = p.content.source;
  const Rule& rule = source.rules().rules[p.rule];
  const Segment& segment = rule.segments[s];
  StoredSegment stored = stored_segment(rule, s, dialect);
  if (!p.content.kind.empty()) stored.key = state_key(stored.key, p.content.kind, dialect.container);
  ManifestChunk chunk{stored.prefix, Shape(stored.prefix.size(), 1), ""};
  chunk.offsets.resize(stored.shape.size(), 0);
  chunk.offsets[stored.prefix.size()] = stored.row;
  chunk.sizes.insert(chunk.sizes.end(), segment.shape.begin(), segment.shape.end());
  const std::string name = p.content.kind.empty() ? rule.name() : format("{} of {}", p.content.kind, rule.name());
  Target target{name, p.dtype, checked_numel(segment.shape, stored.key), {}, source.offset(p.rule)};
  source.append_feeds(p.rule, s, dense_window(Shape(segment.shape.size(), 0), segment.shape), target.copies);
  for (Copy& copy : target.copies) copy.source += p.first_buffer;
  plan.targets.push_back(std::move(target));
  plan.specs.push_back({stored.key, p.dtype, stored.shape});
  plan.chunks.push_back(std::move(chunk));
}

void plan_content(const NativeContent& content, int64_t first_buffer, Dialect dialect, NativePlan& plan) {
  const RuleTable& table = content.source.rules();
  for (size_t r = 0; r < table.rules.size(); ++r) {
    const Rule& rule = table.rules[r];
    const bool in_place_of_weights = content.kind == "param" && dialect.container == Container::fsdp_dtensor;
    if (!rule.is_optimized() && !content.kind.empty() && !in_place_of_weights) continue;
    const DType from = content.source.dtype(rule), to = native_dtype(content.source, r, content.asked);
    if (from != to) plan.casts.push_back(format("{}: {} to {}", rule.name(), torch_name(from), torch_name(to)));
    for (size_t s = 0; s < rule.segments.size(); ++s) plan_segment({content, r, to, first_buffer}, s, dialect, plan);
  }
}

void plan_tensor(const NativeTensor& tensor, int64_t buffer, NativePlan& plan) {
  const int64_t elements = checked_numel(tensor.spec.shape, tensor.spec.name);
  plan.targets.push_back({tensor.spec.name, tensor.spec.dtype, elements, {{buffer, 0, 0, {{elements, 1, 1}}}}});
  plan.specs.push_back(tensor.spec);
  plan.chunks.push_back({Shape(tensor.spec.shape.size(), 0), tensor.spec.shape, ""});
}

// Layers stacked into one stored tensor share its type.
void require_one_dtype(const NativePlan& plan) {
  std::map<std::string, size_t> first;
  for (size_t i = 0; i < plan.specs.size(); ++i) {
    const size_t other = first.emplace(plan.specs[i].name, i).first->second;
    require(plan.specs[i].dtype == plan.specs[other].dtype, "{} is {} but {} is {}; Megatron stacks them in one tensor: choose one type with --torch-dtype",
            plan.targets[other].name, torch_name(plan.specs[other].dtype), plan.targets[i].name, torch_name(plan.specs[i].dtype));
  }
}

}  // namespace

DType stored_dtype(const Rule& rule, DType source, std::optional<DType> asked) {
  return asked && rule.precision == Precision::follows ? *asked : source;
}

bool inverts(std::span<const SourceBuffer> sources, const Target& target, DType original) {
  std::vector<std::byte> scratch, plain, back(static_cast<size_t>(target.elements * dtype_bytes(original)));
  const std::span<const std::byte> shifted = gather(sources, target, 0, target.elements, scratch);
  run_copy({0, 0, 0, {{target.elements, 1, 1}}}, {target.name, target.dtype, shifted}, back.data(), original, -target.add);
  const std::span<const std::byte> wanted = gather(sources, {target.name, original, target.elements, target.copies}, 0, target.elements, plain);
  return std::equal(wanted.begin(), wanted.end(), back.begin());
}

Manifest write_native_tensors(std::span<const NativeContent> contents, const NativeExtras& extras, const fs::path& directory,
                              const NativeWriteOptions& options) {
  NativePlan plan;
  std::vector<SourceBuffer> buffers;
  for (const NativeContent& content : contents) {
    plan_content(content, static_cast<int64_t>(buffers.size()), options.dialect, plan);
    buffers.insert(buffers.end(), content.source.buffers().begin(), content.source.buffers().end());
  }
  require_one_dtype(plan);
  for (const NativeTensor& tensor : extras.tensors) {
    plan_tensor(tensor, static_cast<int64_t>(buffers.size()), plan);
    buffers.push_back({tensor.spec.name, tensor.spec.dtype, std::as_bytes(std::span(tensor.bytes.data(), tensor.bytes.size()))});
  }
  TorchDistWriter writer(directory);
  for (size_t i = 0; i < plan.specs.size(); ++i) {
    const size_t number = writer.add_chunk(plan.specs[i], plan.chunks[i].offsets, plan.chunks[i].sizes);
    PONTE_ASSERT(number == i);
  }
  const SegmentSource& first = contents[0].source;
  if (options.dialect.container == Container::torch_dist)
    for (const ExtraState& module : first.rules().extra_state) writer.add_object(extra_state_key(module, options.dialect), empty_extra_state());
  for (const auto& [name, value] : extras.objects) writer.add_object(name, value);
  writer.begin();
  const auto hashes = run_transfer(buffers, plan.targets,
                                   [&](size_t target, uint64_t offset, std::span<const std::byte> block, auto*) { writer.write(target, offset, block); },
                                   {options.threads, options.label});
  writer.finish();

  Manifest manifest;
  manifest.architecture = first.config().hf_architecture;
  manifest.casts = plan.casts;
  for (size_t i = 0; i < plan.specs.size(); ++i) {
    ManifestTensor& tensor = manifest.tensors[plan.specs[i].name];
    tensor.dtype = plan.specs[i].dtype;
    tensor.shape = plan.specs[i].shape;
    tensor.chunks.push_back({plan.chunks[i].offsets, plan.chunks[i].sizes, hashes[i]});
  }
  return manifest;
}

Value empty_extra_state() { return Value::list({Value::tensor(DType::u8, {0}, "")}); }

namespace {

// Megatron-LM's arguments of a sparse model; a dense one has num_experts None alone.
void add_expert_arguments(const ModelConfig& c, std::vector<std::pair<std::string, Value>>& args) {
  if (c.num_moe_experts == 0) {
    args.push_back({"num_experts", Value()});
    return;
  }
  Value layers = Value::integer(1);
  if (!c.moe_layer_freq.empty()) {
    Values flags;
    for (int64_t flag : c.moe_layer_freq) flags.push_back(Value::integer(flag));
    layers = Value::list(std::move(flags));
  }
  const bool shared = c.moe_shared_expert_intermediate_size > 0;
  const std::pair<const char*, Value> own[] = {
      {"num_experts", Value::integer(c.num_moe_experts)},
      {"moe_ffn_hidden_size", Value::integer(c.moe_ffn_hidden_size)},
      {"moe_router_topk", Value::integer(c.moe_router_topk)},
      {"moe_layer_freq", layers},
      {"moe_shared_expert_intermediate_size", shared ? Value::integer(c.moe_shared_expert_intermediate_size) : Value()},
      {"moe_shared_expert_gate", Value::boolean(c.moe_shared_expert_gate)},
      {"moe_router_pre_softmax", Value::boolean(c.moe_router_pre_softmax)},
      {"moe_router_score_function", Value::text(c.moe_router_score_function)},
      {"moe_router_topk_scaling_factor", c.moe_router_topk_scaling_factor ? Value::real(*c.moe_router_topk_scaling_factor) : Value()},
      {"moe_router_num_groups", c.moe_router_num_groups ? Value::integer(c.moe_router_num_groups) : Value()},
      {"moe_router_group_topk", c.moe_router_group_topk ? Value::integer(c.moe_router_group_topk) : Value()},
      {"moe_router_enable_expert_bias", Value::boolean(c.moe_router_enable_expert_bias)},
      {"moe_router_load_balancing_type", Value::text(c.moe_router_load_balancing_type)},
      {"moe_aux_loss_coeff", Value::real(c.moe_aux_loss_coeff)},
      {"moe_grouped_gemm", Value::boolean(true)},
      {"expert_model_parallel_size", Value::integer(1)},
      {"expert_tensor_parallel_size", Value::integer(1)},
  };
  for (const auto& [name, value] : own) args.push_back({name, value});
}

// Those of a model with gated delta nets.
void add_hybrid_arguments(const ModelConfig& c, std::vector<std::pair<std::string, Value>>& args) {
  if (c.experimental_attention_variant.empty()) return;
  Values linear;
  for (const std::string& type : c.layer_types) linear.push_back(Value::integer(type == "linear_attention"));
  const std::pair<const char*, Value> own[] = {
      {"experimental_attention_variant", Value::text(c.experimental_attention_variant)},
      {"linear_attention_freq", Value::list(std::move(linear))},
      {"linear_conv_kernel_dim", Value::integer(c.linear_conv_kernel_dim)},
      {"linear_key_head_dim", Value::integer(c.linear_key_head_dim)},
      {"linear_value_head_dim", Value::integer(c.linear_value_head_dim)},
      {"linear_num_key_heads", Value::integer(c.linear_num_key_heads)},
      {"linear_num_value_heads", Value::integer(c.linear_num_value_heads)},
      {"attention_output_gate", Value::boolean(c.attention_output_gate)},
  };
  for (const auto& [name, value] : own) args.push_back({name, value});
}

}  // namespace

Value common_state_of_import(const ModelConfig& c) {
  const Value none{};
  std::vector<std::pair<std::string, Value>> arguments = {
      {"num_layers", Value::integer(c.num_layers)},
      {"hidden_size", Value::integer(c.hidden_size)},
      {"ffn_hidden_size", Value::integer(c.ffn_hidden_size)},
      {"seq_length", Value::integer(c.seq_length)},
      {"max_position_embeddings", Value::integer(c.max_position_embeddings)},
      {"num_attention_heads", Value::integer(c.num_attention_heads)},
      {"group_query_attention", Value::boolean(c.num_query_groups != c.num_attention_heads)},
      {"num_query_groups", Value::integer(c.num_query_groups)},
      {"kv_channels", Value::integer(c.kv_channels)},
      {"position_embedding_type", Value::text(c.position_embedding_type)},
      {"add_position_embedding", Value::boolean(true)},
      {"use_rotary_position_embeddings", Value::boolean(true)},
      {"rotary_base", Value::integer(static_cast<int64_t>(c.rotary_base))},
      {"rotary_percent", Value::real(c.rotary_percent)},
      {"rotary_interleaved", Value::boolean(false)},
      {"add_bias_linear", Value::boolean(c.add_bias_linear)},
      {"add_qkv_bias", Value::boolean(c.add_qkv_bias)},
      {"qk_layernorm", Value::boolean(c.qk_layernorm)},
      {"squared_relu", Value::boolean(false)},
      {"swiglu", Value::boolean(c.gated_linear_unit)},
      {"untie_embeddings_and_output_weights", Value::boolean(!c.share_embeddings_and_output_weights)},
      {"apply_layernorm_1p", Value::boolean(c.layernorm_zero_centered_gamma)},
      {"normalization", Value::text(c.normalization)},
      {"norm_epsilon", Value::real(c.layernorm_epsilon)},
      {"apply_query_key_layer_scaling", Value::boolean(false)},
      {"attention_dropout", Value::real(c.attention_dropout)},
      {"hidden_dropout", Value::real(c.hidden_dropout)},
      {"init_method_std", Value::real(c.init_method_std)},
      {"vocab_size", Value::integer(c.vocab_size)},
      {"padded_vocab_size", Value::integer(c.vocab_size)},
      {"bf16", Value::boolean(c.bf16)},
      {"fp16", Value::boolean(c.fp16)},
      {"mtp_num_layers", c.mtp_num_layers ? Value::integer(c.mtp_num_layers) : none},
      {"tensor_model_parallel_size", Value::integer(1)},
      {"pipeline_model_parallel_size", Value::integer(1)},
      {"consumed_train_samples", Value::integer(0)},
      {"consumed_valid_samples", Value::integer(0)},
      {"skipped_train_samples", Value::integer(0)},
      {"iteration", Value::integer(0)},
      {"data_parallel_random_init", Value::boolean(false)},
  };
  add_expert_arguments(c, arguments);
  add_hybrid_arguments(c, arguments);
  const Value args = Value::dict_of(std::move(arguments));
  return Value::dict_of({
      {"args", Value::construct("argparse", "Namespace", {}, args)},
      {"checkpoint_version", Value::real(3.0)},
      {"iteration", Value::integer(0)},
      {"content_metadata", Value::dict_of({{"singleton_local_shards", Value::boolean(false)}, {"chained_optim_avoid_prefix", Value::boolean(true)}})},
  });
}

Value train_state_of_import() {
  return Value::dict_of({
      {"step", Value::scalar(int64_t{0})},
      {"consumed_train_samples", Value::scalar(int64_t{0})},
      {"skipped_train_samples", Value::scalar(int64_t{0})},
      {"consumed_valid_samples", Value::scalar(int64_t{0})},
      {"floating_point_operations_so_far", Value::scalar_f32(0.0f)},
      {"do_train", Value::scalar(false)},
      {"do_valid", Value::scalar(false)},
      {"do_test", Value::scalar(false)},
  });
}

}  // namespace ponte
