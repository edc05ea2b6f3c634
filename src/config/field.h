// The field listing: one row per configuration key, type-erased, from which parsing, printing, difference, flags and documentation derive.
// listing_*.cpp hold the rows; nothing else knows which keys there are.
#pragma once
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "config/config.h"
#include "config/value.h"

namespace ponte {

// What a key is about, where that matters: `architecture` is what an HF model determines (--hf-model), `internal` is never printed or set.
enum class FieldRole { run, architecture, internal };

struct Field {
  std::string section, key, doc;
  std::string wanted;                 // "an integer", "one of adam, sgd"
  bool is_list = false, is_boolean = false;
  FieldRole role = FieldRole::run;
  std::vector<std::string> choices;   // texts: the allowed ones; empty: any
  std::function<std::string(const Config&)> print;          // as YAML
  std::function<bool(Config&, const YamlValue&)> assign;        // false: not of the type
  std::function<void(const Config&, Config&)> copy;         // from, to
  std::string name() const { return section + "." + key; }
};

const std::vector<Field>& config_fields();            // sections in the order of Config
const std::vector<std::string>& config_sections();
const Field* find_field(std::string_view name);        // "section.key"; nullptr when there is none

// --- how rows are written ---

// 0 and "" print as null and are written by null; for fields where they mean "none".
struct NoneIsNull {};
inline constexpr NoneIsNull none_is_null;
using Choices = std::initializer_list<const char*>;

template <class T>
struct ValueType;  // wanted text, read, print

template <class Section>
class Listing {
 public:
  Listing(std::vector<Field>& rows, std::string section, Section Config::*member) : rows_(rows), section_(std::move(section)), member_(member) {}
  Listing& role(FieldRole role) { return role_ = role, *this; }

  template <class T>
  Listing& operator()(const char* key, T Section::*field, const char* doc) {
    return add<T, false>(key, field, doc, {});
  }
  template <class T>
  Listing& operator()(const char* key, T Section::*field, NoneIsNull, const char* doc) {
    return add<T, true>(key, field, doc, {});
  }
  Listing& operator()(const char* key, std::string Section::*field, Choices choices, const char* doc) {
    return add<std::string, false>(key, field, doc, choices);
  }
  Listing& operator()(const char* key, std::string Section::*field, NoneIsNull, Choices choices, const char* doc) {
    return add<std::string, true>(key, field, doc, choices);
  }

 private:
  template <class T, bool kNoneIsNull>
  Listing& add(const char* key, T Section::*field, const char* doc, Choices choices);

  std::vector<Field>& rows_;
  std::string section_;
  Section Config::*member_;
  FieldRole role_ = FieldRole::run;
};

// The rows of each section; defined in listing_*.cpp.
void list_model(std::vector<Field>& rows);
void list_training(std::vector<Field>& rows);   // train, validation, optimizer, scheduler
void list_execution(std::vector<Field>& rows);  // ddp, dist, mixed_precision, comm_overlap, rng, profiling
void list_data(std::vector<Field>& rows);       // dataset, tokenizer, checkpoint, logger, peft

}  // namespace ponte
