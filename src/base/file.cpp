#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/errors.h"

namespace ponte {
namespace {

int open_or_fail(const fs::path& file, int flags, mode_t mode = 0644) {
  int fd;
  do fd = ::open(file.c_str(), flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) fail_errno(format("cannot open {}", file));
  return fd;
}

void fsync_path(const fs::path& path, int flags) {
  const int fd = open_or_fail(path, flags);
  const int rc = ::fsync(fd);
  const int code = errno;
  ::close(fd);
  if (rc != 0 && code != EINVAL) errno = code, fail_errno(format("cannot flush {} to disk", path));
}

}  // namespace

bool is_plain_file_name(std::string_view name) {
  constexpr size_t kLongest = 255;  // NAME_MAX
  return !name.empty() && name.size() <= kLongest && name.front() != '.' &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

std::string read_file(const fs::path& file) {
  const MappedFile mapped(file);
  const auto bytes = mapped.bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void write_file_atomically(const fs::path& file, std::string_view content) {
  const fs::path target = behind_links(file), staging = staging_name(target);
  try {
    OutputFile out(staging);
    out.append(content);
    out.close();
    fs::rename(staging, target);
  } catch (const std::exception& e) {
    std::error_code ignored;
    fs::remove(staging, ignored);
    fail("cannot write {}: {}", file, e.what());
  }
  fsync_directory(target.parent_path());
}

MappedFile::MappedFile(const fs::path& file) : path_(file) {
  const int fd = open_or_fail(file, O_RDONLY);
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    fail("{}: not a regular file", file);
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    const int code = errno;
    ::close(fd);
    if (p == MAP_FAILED) errno = code, fail_errno(format("cannot map {}", file));
    data_ = static_cast<const std::byte*>(p);
  } else {
    ::close(fd);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::drop(size_t offset, size_t length) const {
  const size_t page = 4096, first = (offset + page - 1) / page * page, last = (offset + length) / page * page;
  if (data_ && last > first) ::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
}

OutputFile::OutputFile(const fs::path& file) : path_(file), fd_(open_or_fail(file, O_RDWR | O_CREAT | O_TRUNC)) {}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), position_(other.position_) {}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(format("cannot write {}", path_));
    done += static_cast<size_t>(n);
  }
}

void OutputFile::append(std::span<const std::byte> bytes) {
  write_at(position_, bytes);
  position_ += bytes.size();
}

void OutputFile::append(std::string_view text) { append(std::as_bytes(std::span(text.data(), text.size()))); }

void OutputFile::preallocate(uint64_t bytes) {
  if (bytes == 0) return;
  const int code = ::posix_fallocate(fd_, 0, static_cast<off_t>(bytes));
  if (code == ENOSPC || code == EFBIG) errno = code, fail_errno(format("cannot reserve {} for {}", human_bytes(bytes), path_));
}

void OutputFile::truncate(uint64_t bytes) {
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) fail_errno(format("cannot size {}", path_));
}

void OutputFile::close() {
  if (fd_ < 0) return;
  if (::fsync(fd_) != 0) fail_errno(format("cannot flush {} to disk", path_));
  const int rc = ::close(std::exchange(fd_, -1));
  if (rc != 0) fail_errno(format("cannot close {}", path_));
}

void fsync_directory(const fs::path& directory) { fsync_path(directory, O_RDONLY | O_DIRECTORY); }

void fsync_tree(const fs::path& directory) {
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_directory()) fsync_path(entry.path(), O_RDONLY | O_DIRECTORY);
    else if (entry.is_regular_file()) fsync_path(entry.path(), O_RDONLY);
  }
  fsync_directory(directory);
}

}  // namespace ponte
