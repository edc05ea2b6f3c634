// For targets that read files: a temporary folder of this process.
#pragma once
#include <unistd.h>

#include "base/file.h"
#include "base/format.h"

namespace ponte {

// Made and filled at the first call, removed when the process ends.
inline const fs::path& process_folder(std::string_view name, void (*fill)(const fs::path&) = nullptr) {
  struct Folder {
    fs::path path;
    ~Folder() { fs::remove_all(path); }
  };
  static const Folder folder{[&] {
    const fs::path out = fs::temp_directory_path() / format("ponte-{}-fuzz-{}", name, ::getpid());
    fs::create_directories(out);
    if (fill) fill(out);
    return out;
  }()};
  return folder.path;
}

}  // namespace ponte
