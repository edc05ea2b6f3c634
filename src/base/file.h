// Files as RAII values: mappings, writers that report a full disk, and results that appear whole or not at all.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace ponte {

namespace fs = std::filesystem;

std::string read_file(const fs::path& file);
// A name a file can have inside the folder at hand: not empty, hidden, longer than 255 bytes, nor with a slash or a NUL in it.
bool is_plain_file_name(std::string_view name);
// Written to a temporary sibling, fsynced and renamed over `file`.
void write_file_atomically(const fs::path& file, std::string_view content);

// A read-only mapping of a whole file. An empty file maps to an empty span. Throws UserError when it cannot be opened or is not a regular file.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& file);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const fs::path& path() const { return path_; }
  // Tells the kernel the pages of [offset, offset+length) are no longer wanted, so a file larger than memory streams through.
  void drop(size_t offset, size_t length) const;

 private:
  fs::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A file being written at stated offsets; safe to use from several threads at disjoint offsets. Every failure (a full disk included) is a
// UserError naming the file. close() flushes to disk; destruction without close() leaves the file as it is.
class OutputFile {
 public:
  explicit OutputFile(const fs::path& file);  // created or truncated
  OutputFile(OutputFile&& other) noexcept;
  ~OutputFile();
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text);
  // Reserves room, so that a full disk is found before the work and not in the middle of it.
  void preallocate(uint64_t bytes);
  void truncate(uint64_t bytes);
  void close();  // fsync + close
  uint64_t size() const { return position_; }  // bytes appended so far
  int descriptor() const { return fd_; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  int fd_ = -1;
  uint64_t position_ = 0;
};

// A directory that is built under a temporary sibling name and published by one rename. Until publish() the target is untouched; destruction
// without publish() removes the temporary. A symbolic link to the target stays one. A killed writer leaves only a ".<name>.partial-*" sibling, which the
// next writer of the same target removes. An existing target is swapped with the new one at once; where the file system cannot do that it is moved to
// ".<name>.replaced-*" first, and after a crash between the two renames the next writer (or remove_leftovers) moves it back.
class StagedDirectory {
 public:
  enum class Existing { refuse, replace };
  StagedDirectory(const fs::path& target, Existing existing);
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  const fs::path& path() const { return staging_; }   // write here
  const fs::path& target() const { return target_; }
  void publish();  // fsyncs every file and directory below path(), then renames

 private:
  void make_staging();
  fs::path target_, staging_;
  Existing existing_;
  bool published_ = false;
  int lock_ = -1;  // tells others that the writer lives
};

// The path that `path` leads to through symbolic links in its last part, whether anything is there or not; absolute.
fs::path behind_links(const fs::path& path);
// ".<name>.partial-<writer>" beside the target.
fs::path staging_name(const fs::path& target);
// Removes a folder so that no reader ever finds a part of it under its name.
void remove_at_once(const fs::path& path);

// What killed writers of `directory`/`name` (empty: of anything in it) left there. perhaps_alive: what belongs to a live writer, or to one of whom
// nothing is known, stays. none_alive: the caller knows that it is the only writer (FolderLock).
enum class Writers { perhaps_alive, none_alive };
void remove_leftovers(const fs::path& directory, Writers writers, std::string_view name = "");

// `to` gets the content of `from`; returns where the old content is.
enum class Exchange { at_once, by_two_renames };
fs::path exchange_directories(const fs::path& from, const fs::path& to, Exchange how);

void fsync_tree(const fs::path& directory);
void fsync_directory(const fs::path& directory);

}  // namespace ponte
