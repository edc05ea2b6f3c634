// One index of integers (int32 or int64), in memory or mapped from a numpy .npy file, so that a run's indices are built once and shared.
#pragma once
#include <cstring>
#include <optional>
#include <variant>
#include <vector>

#include "base/file.h"

namespace ponte {

class IndexArray {
 public:
  IndexArray() = default;
  IndexArray(std::vector<int32_t> values) : owned_(std::move(values)) { view_owned<int32_t>(); }  // NOLINT: meant to convert
  IndexArray(std::vector<int64_t> values) : owned_(std::move(values)) { view_owned<int64_t>(); }  // NOLINT
  IndexArray(IndexArray&&) = default;             // vectors and mappings keep their address when moved
  IndexArray& operator=(IndexArray&&) = default;

  int64_t size() const { return size_; }
  int64_t operator[](int64_t i) const {
    if (wide_) {
      int64_t value;
      std::memcpy(&value, data_ + i * 8, 8);
      return value;
    }
    uint32_t value;
    std::memcpy(&value, data_ + i * 4, 4);
    return value;  // indices are never negative: sample numbers use all 32 bits
  }

  // `columns` 2 gives shape (n/2, 2). Published by a rename, so several processes may write the same file.
  void save(const fs::path& file, int64_t columns) const;
  // nullopt when the file is not there; UserError when it is not what save() writes.
  static std::optional<IndexArray> load(const fs::path& file);

 private:
  template <class T>
  void view_owned() {
    const auto& values = std::get<std::vector<T>>(owned_);
    data_ = reinterpret_cast<const std::byte*>(values.data());
    size_ = static_cast<int64_t>(values.size());
    wide_ = sizeof(T) == 8;
  }
  std::variant<std::monostate, std::vector<int32_t>, std::vector<int64_t>> owned_;
  std::optional<MappedFile> mapped_;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
  bool wide_ = false;
};

}  // namespace ponte
