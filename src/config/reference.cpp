// The reference page: a table per section, then presets, other names and keys without effect.
#include "config/reference.h"

#include "base/format.h"
#include "config/document.h"
#include "config/field.h"
#include "config/foreign.h"
#include "config/precision.h"

namespace ponte {
namespace {

constexpr std::string_view kHead = R"(# Configuration

This page is made by `ponte recipes docs` from the field listing (src/config/listing_*.cpp); a test keeps the two equal.

Sections and keys have Megatron Bridge's names and YAML spelling (`null`, `torch.bfloat16`). Layers, later ones win: recipe, `--config-file`s in
order, `--hf-model`, the rest of the command line. On the command line a key is `section.key=value`, or a flag of its bare name where that is
unambiguous (`--train-iters 100`; `-` and `_` are alike). `ponte train ... --dry-run` prints every value with its origin. An unknown key is an
error.

)";

std::string in_table(const std::string& text) { return join(split(text, '|'), "\\|"); }

}  // namespace

std::string configuration_reference() {
  std::string out(kHead);
  const Config defaults;
  for (const std::string& section : config_sections()) {
    out += "## " + section + "\n\n| key | default | value | meaning |\n|---|---|---|---|\n";
    for (const Field& field : config_fields()) {
      if (field.section != section || field.role == FieldRole::internal) continue;
      out += "| " + field.key + " | `" + field.print(defaults) + "` | " + in_table(field.wanted) + " | " + in_table(field.doc) + " |\n";
    }
    out += "\n";
  }
  out += "## Precision presets\n\n`mixed_precision=NAME` with NAME one of " + join(precision_preset_names(), ", ") +
         "; or `mixed_precision=null`.\n\n";
  out += "## Other names for these keys\n\n| Megatron Bridge, NeMo | here |\n|---|---|\n";
  for (const auto& [theirs, ours] : key_aliases()) out += "| " + std::string(theirs) + " | " + std::string(ours) + " |\n";
  out += "| dataset.blend, dataset.blend_per_split | dataset.data_path; dataset.train_data_path, valid_data_path, test_data_path |\n";
  out += "\n## Keys of Megatron Bridge without effect\n\nAccepted, and named when a run starts; some only at the value that changes nothing.\n\n";
  std::string section;
  for (const std::string& name : foreign_names()) {
    const std::string group = name.substr(0, name.find('.'));
    out += group == section ? ", " : (section.empty() ? "- " : "\n- ") + group + ": ";
    out += name.substr(group.size() + 1);
    section = group;
  }
  out += "\n\n| of these | why not |\n|---|---|\n";
  for (const auto& [name, reason] : foreign_reasons()) out += "| " + std::string(name) + " | " + std::string(reason) + " |\n";
  return out;
}

}  // namespace ponte
