#include "format/parquet.h"

#include <dlfcn.h>

#include "base/errors.h"
#include "format/parquet_plugin/parquet_plugin.h"

namespace ponte {
namespace {

const PonteParquetApi* load_plugin(const fs::path& wanted_for) {
  const fs::path plugin = fs::read_symlink("/proc/self/exe").parent_path() / "libponte_parquet.so";
  require(
      fs::exists(plugin),
      "{}: this build reads no Parquet files: it found no pyarrow package when it was configured (./quickstart.sh --build-only brings one)",
      wanted_for);
  void* library = ::dlopen(plugin.c_str(), RTLD_NOW | RTLD_LOCAL);
  require(library != nullptr, "{}: the Parquet plugin cannot be loaded: {}", wanted_for, library ? "" : ::dlerror());
  const auto entry = reinterpret_cast<decltype(&ponte_parquet_api)>(::dlsym(library, "ponte_parquet_api"));
  require(entry != nullptr && entry()->version == PONTE_PARQUET_VERSION, "{}: {} is not of this build", wanted_for, plugin);
  return entry();
}

const PonteParquetApi* api(const fs::path& wanted_for) {
  static const PonteParquetApi* loaded = load_plugin(wanted_for);
  return loaded;
}

PonteParquet* file_of(void* handle) { return static_cast<PonteParquet*>(handle); }

}  // namespace

ParquetColumns::ParquetColumns(const fs::path& file, const std::vector<std::string>& columns) : file_(file) {
  std::vector<const char*> names;
  for (const std::string& name : columns) names.push_back(name.c_str());
  handle_ = api(file)->open(file.c_str(), names.data(), static_cast<int32_t>(names.size()));
  check(handle_ ? 0 : 1);
}

ParquetColumns::~ParquetColumns() {
  if (handle_) api(file_)->close(file_of(handle_));
}

void ParquetColumns::check(int code) const { require(code == 0, "{}: {}", file_, code == 0 ? "" : api(file_)->message()); }

int64_t ParquetColumns::rows() const { return api(file_)->rows(file_of(handle_)); }

void ParquetColumns::skip_to(int64_t row) { check(api(file_)->skip_to(file_of(handle_), row)); }

int64_t ParquetColumns::read_rows(int64_t at_most, const Visit& visit) {
  const auto forward = [](void* context, int32_t column, const char* data, int64_t size, int32_t is_null) {
    (*static_cast<const Visit*>(context))(static_cast<size_t>(column), std::string_view(data, static_cast<size_t>(size)), is_null != 0);
  };
  const int64_t rows = api(file_)->read_rows(file_of(handle_), at_most, forward, const_cast<Visit*>(&visit));
  check(rows < 0);
  return rows;
}

}  // namespace ponte
