#include "corpus/staged_pair.h"

#include "base/errors.h"
#include "format/indexed_dataset.h"

namespace ponte {
namespace {

void move_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  require(!error, "cannot move {} to {}: {}", from, to, error.message());
}

}  // namespace

fs::path work_folder(const fs::path& prefix, std::string_view purpose) {
  const fs::path absolute = fs::absolute(prefix);
  return absolute.parent_path() / format(".{}.{}", absolute.filename(), purpose);
}

void require_no_pair(const fs::path& prefix) {
  for (const fs::path& file : {bin_path(prefix), idx_path(prefix)})
    require(!fs::exists(file), "{} already exists: give another --output-prefix, or --overwrite to replace it", file);
}

void publish_pair(const fs::path& from, const fs::path& to) {
  if (!fs::exists(idx_path(from))) return;
  const fs::path folder = fs::absolute(to).parent_path();
  if (fs::exists(bin_path(from))) {
    fs::remove(idx_path(to));  // an old index must not be read with the new ids
    fsync_directory(folder);
    move_file(bin_path(from), bin_path(to));
    fsync_directory(folder);
  }
  move_file(idx_path(from), idx_path(to));
  fsync_directory(folder);
}

}  // namespace ponte
