// Text formatting for messages: `format("{} of {:.1f} GB", n, size)` with fmt's syntax, without fmt's headers (torch bundles others).
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace ponte {

// One formatted value, erased to the few kinds messages need.
class FormatArg {
 public:
  template <class T>
  FormatArg(const T& value) : value_(wrap(value)) {}
  using Value = std::variant<int64_t, uint64_t, double, bool, char, std::string>;
  const Value& value() const { return value_; }

 private:
  template <class T>
  static Value wrap(const T& v) {
    if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, char>) return v;
    else if constexpr (std::is_enum_v<T>) return static_cast<int64_t>(v);
    else if constexpr (std::is_floating_point_v<T>) return static_cast<double>(v);
    else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) return static_cast<int64_t>(v);
    else if constexpr (std::is_integral_v<T>) return static_cast<uint64_t>(v);
    else if constexpr (std::is_convertible_v<T, std::string_view>) return std::string(std::string_view(v));
    else if constexpr (requires { v.string(); }) return std::string(v.string());  // std::filesystem::path
    else return list(v);
  }
  template <class T>
  static std::string list(const T& values);  // any range: "[1, 2, 3]"
  Value value_;
};

std::string format_text(std::string_view pattern, std::initializer_list<FormatArg> args);

template <class... Args>
std::string format(std::string_view pattern, const Args&... args) {
  return format_text(pattern, {FormatArg(args)...});
}

template <class T>
std::string FormatArg::list(const T& values) {
  std::string out = "[";
  for (const auto& v : values) {
    if (out.size() > 1) out += ", ";
    out += format_text("{}", {FormatArg(v)});
  }
  return out + "]";
}

// "1.2 GB", "640 B": powers of 1000, for people.
std::string human_bytes(uint64_t bytes);
// "12.3 s", "4 min 05 s", "2 h 10 min".
std::string human_seconds(double seconds);
std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::string lower(std::string_view text);
// The candidate with the smallest edit distance to `word`, or "" when none is near enough to be a likely typing error.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace ponte
