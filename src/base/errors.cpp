#include "base/errors.h"

#include <cerrno>
#include <cstring>

namespace ponte {

void throw_user_error(std::string message) { throw UserError(std::move(message)); }

void throw_internal_error(const char* expression, const char* file, int line) {
  throw InternalError(format("internal error: '{}' does not hold ({}:{})", expression, file, line));
}

void fail_errno(std::string message) {
  const int code = errno;
  throw UserError(message + ": " + std::strerror(code));
}

}  // namespace ponte
