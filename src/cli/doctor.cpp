// `ponte doctor`: one screen about the machine, as far as it can be told without torch. Facts come from /proc, the file system and dlopen.
#include <CLI/CLI.hpp>
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "base/environment.h"
#include "base/file.h"
#include "base/format.h"
#include "cli/commands.h"
#include "hub/hub.h"

namespace ponte {
namespace {

struct Row {
  enum class State { good, note, bad } state;
  std::string subject, finding;
};
using State = Row::State;

// The first line of a /proc file that starts with `key`, behind its colon.
std::string proc_value(const char* file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) {
      const size_t colon = line.find(':');
      const size_t begin = colon == std::string::npos ? colon : line.find_first_not_of(" \t", colon + 1);
      return begin == std::string::npos ? "" : line.substr(begin);
    }
  return "";
}

Row processor() {
  std::istringstream flags(proc_value("/proc/cpuinfo", "flags"));
  std::string found;
  bool avx2 = false;
  for (std::string flag; flags >> flag;) {
    avx2 = avx2 || flag == "avx2";
    for (std::string_view wanted : {"avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16"})
      if (flag == wanted) found += (found.empty() ? "" : " ") + flag;
  }
  const std::string model = proc_value("/proc/cpuinfo", "model name");
  return {avx2 ? State::good : State::note, "processor",
          format("{}, {} cores for this process; {}", model.empty() ? "unknown" : model, default_threads(),
                 found.empty() ? "no vector extensions known to Ponte" : found)};
}

uint64_t kilobytes(const std::string& value) { return value.empty() ? 0 : std::strtoull(value.c_str(), nullptr, 10) * 1024; }

Row memory() {
  const uint64_t total = kilobytes(proc_value("/proc/meminfo", "MemTotal")), free = kilobytes(proc_value("/proc/meminfo", "MemAvailable"));
  return {free > (uint64_t{2} << 30) ? State::good : State::note, "memory", format("{} of {} available", human_bytes(free), human_bytes(total))};
}

Row torch_half() {
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path() / "ponte-torch";
  if (!fs::exists(program))
    return {State::bad, "torch",
            format("{} is not there: convert and preprocess work, train and generate do not; ./quickstart.sh --build-only builds it", program)};
  if (::access(program.c_str(), X_OK) != 0) return {State::bad, "torch", format("{} cannot be executed", program)};
  return {State::good, "torch", format("{}", program)};
}

// Opens and closes a shared library: whether the loader finds it, and one of its functions that gives a version.
std::optional<int> library_version(const char* library, const char* function) {
  void* handle = ::dlopen(library, RTLD_LAZY | RTLD_LOCAL);
  if (!handle) return std::nullopt;
  int version = 0;
  if (void* symbol = ::dlsym(handle, function)) reinterpret_cast<int (*)(int*)>(symbol)(&version);
  ::dlclose(handle);
  return version;
}

Row driver() {
  std::ifstream in("/proc/driver/nvidia/version");
  std::string line;
  if (!std::getline(in, line)) return {State::note, "NVIDIA driver", "none: everything runs on the processor"};
  return {State::good, "NVIDIA driver", line.substr(line.find(':') == std::string::npos ? 0 : line.find(':') + 2)};
}

Row cuda() {
  const auto version = library_version("libcuda.so.1", "cuDriverGetVersion");
  if (!version) return {State::note, "CUDA", "libcuda.so.1 is not found"};
  return {State::good, "CUDA", format("driver interface {}.{}", *version / 1000, *version % 1000 / 10)};
}

Row nccl() {
  const auto version = library_version("libnccl.so.2", "ncclGetVersion");
  if (!version) return {State::note, "NCCL", "not on the loader's path; the torch wheel brings its own"};
  return {State::good, "NCCL", format("{}.{}.{}", *version / 10000, *version % 10000 / 100, *version % 100)};
}

// The nearest folder that exists decides whether one can be made.
Row writable(const std::string& subject, fs::path folder) {
  const fs::path asked = folder;
  while (!fs::exists(folder) && folder.has_parent_path() && folder != folder.parent_path()) folder = folder.parent_path();
  std::error_code error;
  const auto room = fs::space(folder, error);
  const std::string free = error ? "" : format(", {} free", human_bytes(room.available));
  if (::access(folder.c_str(), W_OK) != 0) return {State::bad, subject, format("{} cannot be written", asked)};
  return {State::good, subject, format("{}{}", asked, free)};
}

Row hub(const HubSettings& settings) {
  return {State::good, "hub",
          format("{}, {}{}", settings.endpoint, settings.token.empty() ? "no token" : "token set",
                 settings.offline ? ", offline (HF_HUB_OFFLINE)" : "")};
}

Row launcher() {
  const LaunchEnvironment launch = launch_environment();
  return {State::good, "launcher", format("{}: rank {} of {}", launch.source, launch.rank, launch.world_size)};
}

}  // namespace

int run_doctor(const Arguments& arguments) {
  CLI::App app("One screen about this machine: processor, memory, torch, GPU libraries, folders.", "ponte doctor");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  const HubSettings settings = HubSettings::from_environment();
  const Row rows[] = {processor(),
                      memory(),
                      torch_half(),
                      driver(),
                      cuda(),
                      nccl(),
                      writable("working folder", fs::current_path()),
                      writable("temporary files", fs::temp_directory_path()),
                      writable("hub cache", settings.cache),
                      hub(settings),
                      launcher()};
  bool bad = false;
  for (const Row& row : rows) {
    const char* mark = row.state == State::good ? "ok  " : row.state == State::note ? "note" : "BAD ";
    bad = bad || row.state == State::bad;
    std::printf("%s  %-16s %s\n", mark, row.subject.c_str(), row.finding.c_str());
  }
  return bad ? 1 : 0;
}

}  // namespace ponte
