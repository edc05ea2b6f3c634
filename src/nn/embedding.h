// Word embeddings, rows of the vocabulary sharded over the tensor group.
#pragma once
#include "comm/region.h"
#include "nn/parameter.h"

namespace ponte {

struct Embedding {
  Parameter* weight = nullptr;
  TensorRegion region;
  // ids_S -> the residual stream's start.
  at::Tensor operator()(const at::Tensor& ids_S) const;
};

// Rows of the whole vocabulary that this rank holds: [begin, end), padding left out.
struct VocabularyRows {
  int64_t begin, end;
};
VocabularyRows vocabulary_rows(const Parameter& parameter);

}  // namespace ponte
