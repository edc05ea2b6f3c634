// A library to be loaded in front of libc (LD_PRELOAD) that interrupts a program at a stated point, whatever the speed of the machine.
// INTERRUPT_CHANGE=n: ends it, as kill -9 would, just before its n-th call that changes names in the file system or flushes to it. A test that counts n up
//   has then seen every state a killed writer can leave.
// INTERRUPT_RECORD=n, INTERRUPT_SIGNAL=s: sends it signal s just before it writes its n-th JSON record of a training step.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

long number(const char* name) {
  const char* text = std::getenv(name);
  return text ? std::atol(text) : 0;
}

void count_change() {
  static const long last = number("INTERRUPT_CHANGE");
  static std::atomic<long> changes{0};
  if (++changes == last) ::kill(::getpid(), SIGKILL);
}

void count_record() {
  static const long last = number("INTERRUPT_RECORD");
  static std::atomic<long> records{0};
  if (++records == last) ::kill(::getpid(), static_cast<int>(number("INTERRUPT_SIGNAL")));
}

template <class Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int rename(const char* from, const char* to) noexcept {
  count_change();
  return real<int (*)(const char*, const char*)>("rename")(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  count_change();
  return real<int (*)(int, const char*, int, const char*, unsigned)>("renameat2")(from_folder, from, to_folder, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  count_change();
  return real<int (*)(const char*, mode_t)>("mkdir")(path, mode);
}

int unlink(const char* path) noexcept {
  count_change();
  return real<int (*)(const char*)>("unlink")(path);
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  count_change();
  return real<int (*)(int, const char*, int)>("unlinkat")(folder, path, flags);
}

int fsync(int file) {
  count_change();
  return real<int (*)(int)>("fsync")(file);
}

ssize_t write(int file, const void* bytes, size_t count) {
  constexpr char kRecord[] = "{\"iteration\":";
  if (count > sizeof kRecord && !std::memcmp(bytes, kRecord, sizeof kRecord - 1)) count_record();
  return real<ssize_t (*)(int, const void*, size_t)>("write")(file, bytes, count);
}

}  // extern "C"
