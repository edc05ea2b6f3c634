#include "cli/convert_report.h"

#include "base/errors.h"
#include "base/log.h"

namespace ponte {
namespace {

void print_list(const char* what, const std::vector<std::string>& lines) {
  constexpr size_t kShown = 12;
  if (lines.empty()) return;
  log_info("{} {}:", lines.size(), what);
  for (size_t i = 0; i < std::min(lines.size(), kShown); ++i) log_info("  {}", lines[i]);
  if (lines.size() > kShown) log_info("  ... and {} more, all named in the manifest", lines.size() - kShown);
}

}  // namespace

void print_losses(const ConversionReport& report) {
  print_list("parameters cast", report.casts);
  print_list("tensors not written", report.dropped);
  print_list("tensors absent by configuration", report.absent);
}

std::string summary_line(const ConversionReport& report) {
  const double rate = report.seconds > 0 ? static_cast<double>(report.bytes) / report.seconds : 0;
  return format("{}: {} tensors, {} in {} ({}/s)", report.architecture, report.tensors, human_bytes(report.bytes), human_seconds(report.seconds),
                human_bytes(static_cast<uint64_t>(rate)));
}

Container container_flag(const std::string& text) {
  require(text == "torch_dist" || text == "fsdp_dtensor", "--ckpt-format: '{}' found; torch_dist or fsdp_dtensor wanted", text);
  return text == "torch_dist" ? Container::torch_dist : Container::fsdp_dtensor;
}

std::optional<DType> dtype_flag(const std::string& text) {
  if (text.empty()) return std::nullopt;
  const DType dtype = dtype_from_user(text);
  const bool offered = dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f32;
  require(offered, "--torch-dtype: {} found; bf16 (bfloat16), fp16 (float16) or fp32 (float32) wanted", text);
  return dtype;
}

}  // namespace ponte
