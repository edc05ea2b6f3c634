// The C interface between the program and its Parquet plugin: no C++ type of either side crosses it.
#pragma once
#include <stdint.h>

#define PONTE_PARQUET_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

typedef struct PonteParquet PonteParquet;
typedef void (*PonteParquetVisit)(void* context, int32_t column, const char* data, int64_t size, int32_t is_null);

typedef struct {
  int32_t version;
  // NULL on failure; message() of NULL then says why, on the same thread.
  PonteParquet* (*open)(const char* path, const char* const* columns, int32_t count);
  int64_t (*rows)(PonteParquet*);
  int32_t (*skip_to)(PonteParquet*, int64_t row);  // 0: done, else see message()
  int64_t (*read_rows)(PonteParquet*, int64_t at_most, PonteParquetVisit visit, void* context);  // rows read; -1: see message()
  const char* (*message)(void);
  void (*close)(PonteParquet*);
} PonteParquetApi;

// The one symbol that is looked up.
const PonteParquetApi* ponte_parquet_api(void);

#ifdef __cplusplus
}
#endif
