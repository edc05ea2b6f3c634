// Columns of text out of Parquet files. Arrow's libraries are large and not everywhere, so they sit behind a plugin (libponte_parquet.so
// beside the program) that is loaded when the first Parquet file is opened, and only then.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace ponte {

class ParquetColumns {
 public:
  // UserError when the file is not Parquet, is damaged, or has no such column of strings; or when this build has no plugin.
  ParquetColumns(const fs::path& file, const std::vector<std::string>& columns);
  ~ParquetColumns();
  ParquetColumns(const ParquetColumns&) = delete;

  int64_t rows() const;
  void skip_to(int64_t row);  // the next one read, from 0; whole row groups before it are not touched
  // Calls visit(column, value, is_null) for the columns of each of the next rows, row by row. Returns how many rows; 0 at the end. Values
  // live until the call returns.
  using Visit = std::function<void(size_t column, std::string_view value, bool is_null)>;
  int64_t read_rows(int64_t at_most, const Visit& visit);

 private:
  void check(int code) const;
  fs::path file_;
  void* handle_ = nullptr;
};

}  // namespace ponte
