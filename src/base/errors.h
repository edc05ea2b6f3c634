// Two kinds of error. UserError: something the user gave or the machine lacks; the message names the subject, what was found and what was
// wanted; exit 1. InternalError: a broken promise of our own; exit 2. Libraries throw, only main prints.
#pragma once
#include <stdexcept>

#include "base/format.h"

namespace ponte {

struct UserError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct InternalError : std::logic_error {
  using std::logic_error::logic_error;
};

[[noreturn]] void throw_user_error(std::string message);
[[noreturn]] void throw_internal_error(const char* expression, const char* file, int line);

template <class... Args>
[[noreturn]] void fail(std::string_view pattern, const Args&... args) {
  throw_user_error(format_text(pattern, {FormatArg(args)...}));
}

template <class... Args>
void require(bool condition, std::string_view pattern, const Args&... args) {
  if (!condition) [[unlikely]]
    throw_user_error(format_text(pattern, {FormatArg(args)...}));
}

// Appends ": <strerror(errno)>"; for failed system calls.
[[noreturn]] void fail_errno(std::string message);

}  // namespace ponte

#define PONTE_ASSERT(expression) \
  do { \
    if (!(expression)) [[unlikely]] \
      ::ponte::throw_internal_error(#expression, __FILE__, __LINE__); \
  } while (0)
