// Reads columns of strings with Arrow C++, batch by batch, holding one batch. Built against the libraries of the pyarrow package.
#include "format/parquet_plugin/parquet_plugin.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <parquet/arrow/reader.h>
#include <parquet/file_reader.h>
#include <parquet/properties.h>

#include <string>
#include <vector>

namespace {

constexpr int64_t kBatchRows = 1024;

thread_local std::string failure;

struct Failure {};

void check(const arrow::Status& status) {
  if (status.ok()) return;
  failure = status.message();
  throw Failure{};
}

template <class T>
T take(arrow::Result<T> result) {
  check(result.status());
  return std::move(result).ValueUnsafe();
}

}  // namespace

struct PonteParquet {
  std::unique_ptr<parquet::arrow::FileReader> reader;
  std::unique_ptr<arrow::RecordBatchReader> batches;
  std::vector<std::string> names;  // as requested
  std::vector<int> columns;         // their leaf numbers in the file
  std::vector<int> place;           // where each lies in a batch
  std::shared_ptr<arrow::RecordBatch> batch;
  int64_t at = 0, total = 0;        // rows consumed of `batch`; of the file

  void open(const char* path, const char* const* wanted, int32_t count) {
    parquet::ReaderProperties properties;
    properties.enable_buffered_stream();  // a column chunk is read page by page
    parquet::ArrowReaderProperties arrow_properties;
    arrow_properties.set_batch_size(kBatchRows);
    arrow_properties.set_pre_buffer(false);
    parquet::arrow::FileReaderBuilder builder;
    check(builder.Open(take(arrow::io::ReadableFile::Open(path)), properties));
    builder.properties(arrow_properties);
    check(builder.Build(&reader));
    total = reader->parquet_reader()->metadata()->num_rows();
    find_columns(wanted, count);
    start(0);
  }

  void find_columns(const char* const* wanted, int32_t count) {
    std::shared_ptr<arrow::Schema> schema;
    check(reader->GetSchema(&schema));
    const auto* leaves = reader->parquet_reader()->metadata()->schema();
    for (int32_t i = 0; i < count; ++i) {
      const auto field = schema->GetFieldByName(wanted[i]);
      if (!field) {
        std::string known;
        for (const auto& f : schema->fields()) known += (known.empty() ? "" : ", ") + f->name();
        check(arrow::Status::Invalid("no column '", wanted[i], "'; there are: ", known));
      }
      const auto type = field->type()->id();
      if (type != arrow::Type::STRING && type != arrow::Type::LARGE_STRING && type != arrow::Type::BINARY &&
          type != arrow::Type::LARGE_BINARY)
        check(arrow::Status::Invalid("column '", wanted[i], "' is ", field->type()->ToString(), ", wanted strings"));
      columns.push_back(leaves->ColumnIndex(std::string(wanted[i])));
    }
    names.assign(wanted, wanted + count);
  }

  void start(int first_group) {
    std::vector<int> groups;
    for (int g = first_group; g < reader->num_row_groups(); ++g) groups.push_back(g);
    batches = take(reader->GetRecordBatchReader(groups, columns));
    place.clear();
    for (const std::string& name : names) place.push_back(batches->schema()->GetFieldIndex(name));
    batch.reset();
    at = 0;
  }

  bool refill() {
    while (!batch || at == batch->num_rows()) {
      check(batches->ReadNext(&batch));
      at = 0;
      if (!batch) return false;
    }
    return true;
  }

  void skip_to(int64_t row) {
    const auto metadata = reader->parquet_reader()->metadata();
    int group = 0;
    while (group < metadata->num_row_groups() && metadata->RowGroup(group)->num_rows() <= row)
      row -= metadata->RowGroup(group++)->num_rows();
    start(group);
    while (row > 0 && refill()) {
      const int64_t step = std::min(row, batch->num_rows() - at);
      at += step;
      row -= step;
    }
  }

  void value(int column, PonteParquetVisit visit, void* context) const {
    const arrow::Array& array = *batch->column(place[static_cast<size_t>(column)]);
    std::string_view text;
    const bool null = array.IsNull(at);
    const auto type = array.type_id();
    if (!null) {
      if (type == arrow::Type::LARGE_STRING || type == arrow::Type::LARGE_BINARY)
        text = static_cast<const arrow::LargeBinaryArray&>(array).GetView(at);
      else text = static_cast<const arrow::BinaryArray&>(array).GetView(at);
    }
    visit(context, column, text.data(), static_cast<int64_t>(text.size()), null);
  }

  int64_t read_rows(int64_t at_most, PonteParquetVisit visit, void* context) {
    if (!refill()) return 0;
    const int64_t count = std::min(at_most, batch->num_rows() - at);
    for (int64_t i = 0; i < count; ++i, ++at)
      for (size_t c = 0; c < columns.size(); ++c) value(static_cast<int>(c), visit, context);
    return count;
  }
};

namespace {

// Runs body; any exception becomes the message and `failed`.
template <class T, class Body>
T guarded(T failed, const Body& body) {
  try {
    return body();
  } catch (const Failure&) {
  } catch (const std::exception& error) {
    failure = error.what();
  }
  return failed;
}

PonteParquet* open_file(const char* path, const char* const* columns, int32_t count) {
  return guarded<PonteParquet*>(nullptr, [&] {
    auto file = std::make_unique<PonteParquet>();
    file->open(path, columns, count);
    return file.release();
  });
}

int64_t rows(PonteParquet* file) { return file->total; }

int32_t skip_to(PonteParquet* file, int64_t row) {
  return guarded<int32_t>(1, [&] { return file->skip_to(row), 0; });
}

int64_t read_rows(PonteParquet* file, int64_t at_most, PonteParquetVisit visit, void* context) {
  return guarded<int64_t>(-1, [&] { return file->read_rows(at_most, visit, context); });
}

const char* message() { return failure.c_str(); }

void close_file(PonteParquet* file) { delete file; }

}  // namespace

extern "C" const PonteParquetApi* ponte_parquet_api() {
  static const PonteParquetApi api = {PONTE_PARQUET_VERSION, open_file, rows, skip_to, read_rows, message, close_file};
  return &api;
}
