// Moving bytes: targets filled from source buffers by strided copies, block by block, so that memory stays bounded and every block is hashed, checked and
// written while it is in cache. Knows nothing of models.
#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "layout/copies.h"

namespace ponte {

class ContentCheck;

// A row-major tensor (or a piece of one) to read from, usually mapped from a file.
struct SourceBuffer {
  std::string name;
  DType dtype = DType::f32;
  std::span<const std::byte> bytes;
  ContentCheck* check = nullptr;  // of all the bytes, before the first of them is used; nullptr: there is none
};

// A linear buffer to be produced: the copies together write each of its elements once.
struct Target {
  std::string name;
  DType dtype = DType::f32;
  int64_t elements = 0;
  std::vector<Copy> copies;
  float add = 0;  // to every element, in fp32 (a norm's offset)
};

// Copies; adds `add` in fp32 and casts where the types differ (floating types only: UserError otherwise, naming the source). UserError, here and below,
// when a source is not what its check says.
void run_copy(const Copy& copy, const SourceBuffer& from, std::byte* to, DType to_dtype, float add = 0);

// Elements [begin, end) of the target: in place when they are one unchanged run of a source, else gathered into `scratch`. UserError (naming the target)
// when its copies do not cover the stretch exactly.
std::span<const std::byte> gather(std::span<const SourceBuffer> sources, const Target& target, int64_t begin, int64_t end, std::vector<std::byte>& scratch);

// Called with consecutive blocks of a target, in order, by one thread per target; several targets are in progress at once. `owner`: nullptr when the bytes
// outlive the transfer (a mapped file); else the vector they lie in, which the sink may take, leaving another in its place.
using BlockSink = std::function<void(size_t target, uint64_t offset, std::span<const std::byte> block, std::vector<std::byte>* owner)>;

struct TransferOptions {
  int64_t threads = 0;  // 0: all cores
  std::string label;    // of the progress bar; "": none
};

// Returns the content hash of every target. UserError when a target is not covered exactly, or from the sink.
std::vector<std::string> run_transfer(std::span<const SourceBuffer> sources, std::span<const Target> targets, const BlockSink& sink,
                                      const TransferOptions& options);

}  // namespace ponte
