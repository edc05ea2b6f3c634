// How each C++ type of a field is read, printed and named in errors. Included by listing_*.cpp only.
#pragma once
#include <algorithm>
#include <optional>

#include "base/dtype.h"
#include "base/errors.h"
#include "base/format.h"
#include "config/field.h"

namespace ponte {

template <>
struct ValueType<bool> {
  static std::string wanted() { return "true or false"; }
  static bool read(const YamlValue& v, bool& out) { return read_boolean(v, out); }
  static std::string print(bool v) { return v ? "true" : "false"; }
};

template <>
struct ValueType<int64_t> {
  static std::string wanted() { return "an integer"; }
  static bool read(const YamlValue& v, int64_t& out) { return read_integer(v, out); }
  static std::string print(int64_t v) { return std::to_string(v); }
};

template <>
struct ValueType<double> {
  static std::string wanted() { return "a number"; }
  static bool read(const YamlValue& v, double& out) { return read_number(v, out); }
  static std::string print(double v) { return yaml_number(v); }
};

template <>
struct ValueType<std::string> {
  static std::string wanted() { return "text"; }
  static bool read(const YamlValue& v, std::string& out) {
    if (!v.is_scalar()) return false;
    out = v.text;
    return true;
  }
  static std::string print(const std::string& v) { return yaml_text(v); }
};

template <>
struct ValueType<DType> {
  static std::string wanted() { return "a dtype such as torch.bfloat16"; }
  static bool read(const YamlValue& v, DType& out) {
    if (!v.is_scalar()) return false;
    try {
      out = dtype_from_user(v.text);
      return true;
    } catch (const UserError&) {
      return false;
    }
  }
  static std::string print(DType v) { return std::string(torch_name(v)); }
};

template <class T>
struct ValueType<std::optional<T>> {
  static std::string wanted() { return ValueType<T>::wanted() + " or null"; }
  static bool read(const YamlValue& v, std::optional<T>& out) {
    if (v.is_null()) return out.reset(), true;
    T inner{};
    if (!ValueType<T>::read(v, inner)) return false;
    out = inner;
    return true;
  }
  static std::string print(const std::optional<T>& v) { return v ? ValueType<T>::print(*v) : "null"; }
};

// A single value stands for a list of one, null for the empty list.
template <class T>
struct ValueType<std::vector<T>> {
  static std::string wanted() { return std::is_same_v<T, std::string> ? "a list of texts" : "a list, each " + ValueType<T>::wanted(); }
  static bool read(const YamlValue& v, std::vector<T>& out) {
    std::vector<T> read_items;
    if (v.kind == YamlValue::Kind::map) return false;
    if (v.is_scalar()) read_items.resize(1);
    if (v.is_scalar() && !ValueType<T>::read(v, read_items[0])) return false;
    for (const YamlValue& item : v.items)
      if (!ValueType<T>::read(item, read_items.emplace_back())) return false;
    out = std::move(read_items);
    return true;
  }
  static std::string print(const std::vector<T>& v) {
    if (v.empty()) return "[]";
    std::string out = "[";
    for (const T& item : v) out += (out.size() > 1 ? ", " : "") + ValueType<T>::print(item);
    return out + "]";
  }
};

template <class T>
inline constexpr bool kIsVector = false;
template <class T>
inline constexpr bool kIsVector<std::vector<T>> = true;

template <class Section>
template <class T, bool kNoneIsNull>
Listing<Section>& Listing<Section>::add(const char* key, T Section::*field, const char* doc, Choices choices) {
  Field row;
  row.section = section_;
  row.key = key;
  row.doc = doc;
  row.role = role_;
  row.choices.assign(choices.begin(), choices.end());
  row.wanted = row.choices.empty() ? ValueType<T>::wanted() : "one of " + join(row.choices, ", ");
  if (kNoneIsNull) row.wanted += " or null";
  row.is_list = kIsVector<T>;
  row.is_boolean = std::is_same_v<T, bool>;
  row.print = [member = member_, field](const Config& c) {
    const T& value = c.*member.*field;
    return kNoneIsNull && value == T{} ? "null" : ValueType<T>::print(value);
  };
  row.assign = [member = member_, field, allowed = row.choices](Config& c, const YamlValue& v) {
    T value{};
    if (!(kNoneIsNull && v.is_null())) {
      if (!ValueType<T>::read(v, value)) return false;
      if constexpr (std::is_same_v<T, std::string>)
        if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), value) == allowed.end()) return false;
    }
    c.*member.*field = std::move(value);
    return true;
  };
  row.copy = [member = member_, field](const Config& from, Config& to) { to.*member.*field = from.*member.*field; };
  rows_.push_back(std::move(row));
  return *this;
}

}  // namespace ponte
