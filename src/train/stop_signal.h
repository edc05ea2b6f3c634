// SIGTERM and SIGINT ask the run to stop after the current step; one that comes two seconds after the first, or later, ends the process at once. What comes
// sooner is the same request: SLURM and terminals signal a launcher and its ranks, and launchers pass on what they got.
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
