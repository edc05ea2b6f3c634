// SIGTERM and SIGINT ask the run to stop after the current step; a second one ends the process at once.
#pragma once

namespace ponte {

class StopSignal {
 public:
  enum class Handle { terminate_and_interrupt, none };
  explicit StopSignal(Handle handle);
  ~StopSignal();  // earlier handlers are back
  StopSignal(const StopSignal&) = delete;
  static bool received();
  static const char* name();  // "SIGTERM"; meaningful when received()

 private:
  Handle handle_;
};

}  // namespace ponte
