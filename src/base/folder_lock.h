// One writer to a folder at a time, across processes and, where the file system carries flock between machines, across machines.
#pragma once
#include "base/file.h"

namespace ponte {

inline constexpr const char* kFolderLock = ".ponte.lock";

// Held from construction to destruction; the kernel ends it with the process. The folder is made when absent, and taken away again when it is still
// empty at the end. UserError naming the holder when another process has it; `purpose` ("a training run") is what others are told about this one.
// Where the file system has no locks, a warning is all there is.
class FolderLock {
 public:
  FolderLock(const fs::path& folder, std::string_view purpose);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;

 private:
  void acquire(const fs::path& file, std::string_view purpose);
  fs::path folder_;
  bool made_folder_ = false;
  int fd_ = -1;
};

}  // namespace ponte
