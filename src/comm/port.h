// Whether somebody listens at an address, asked without a word in the log.
#pragma once
#include <chrono>
#include <string>

namespace ponte {

// True as soon as a connection to host:port is taken; false when none was by `deadline`. Names are resolved anew at every try: a machine's may come late.
bool answers_by(const std::string& host, int64_t port, std::chrono::steady_clock::time_point deadline);

}  // namespace ponte
