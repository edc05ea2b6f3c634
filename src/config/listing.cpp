// The whole listing, in the order of Config.
#include <algorithm>
#include <map>

#include "config/field.h"

namespace ponte {

const std::vector<Field>& config_fields() {
  static const std::vector<Field> fields = [] {
    std::vector<Field> rows;
    list_model(rows);
    list_training(rows);
    list_execution(rows);
    list_data(rows);
    // Sections are listed by subject; people see them in the order of Config.
    const std::vector<std::string>& order = config_sections();
    std::stable_sort(rows.begin(), rows.end(), [&order](const Field& a, const Field& b) {
      return std::find(order.begin(), order.end(), a.section) < std::find(order.begin(), order.end(), b.section);
    });
    return rows;
  }();
  return fields;
}

const std::vector<std::string>& config_sections() {
  static const std::vector<std::string> sections = {"model", "train",        "validation", "optimizer",  "scheduler", "ddp",
                                                    "dist",  "dataset",      "tokenizer",  "checkpoint", "logger",    "mixed_precision",
                                                    "peft",  "comm_overlap", "rng",        "profiling"};
  return sections;
}

const Field* find_field(std::string_view name) {
  static const std::map<std::string, const Field*, std::less<>> index = [] {
    std::map<std::string, const Field*, std::less<>> out;
    for (const Field& field : config_fields()) out[field.name()] = &field;
    return out;
  }();
  const auto it = index.find(name);
  return it == index.end() ? nullptr : it->second;
}

}  // namespace ponte
