// Configuration files from anywhere: an error or a configuration whose printed form reads back as the same.
#include <cstdint>
#include <string_view>

#include "base/errors.h"
#include "config/document.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  ponte::ConfigDraft draft;
  // A first line that starts with '=' is an override, the rest a document.
  const size_t end = text.starts_with('=') ? text.find('\n') : 0;
  try {
    if (end > 0) ponte::apply_override(draft, text.substr(1, end == std::string_view::npos ? end : end - 1), "fuzz");
    if (end != std::string_view::npos) ponte::apply_yaml(draft, text.substr(end), "fuzz.yaml");
  } catch (const ponte::UserError&) {
    return 0;
  }
  ponte::ConfigDraft back;
  ponte::apply_yaml(back, ponte::config_yaml(draft.config, &draft.origins), "printed.yaml");
  if (!ponte::config_difference(draft.config, back.config).empty()) __builtin_trap();
  return 0;
}
