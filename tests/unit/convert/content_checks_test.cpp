// A byte that is not as it was written is an error and never a value: in any chunk of any tensor, in any format, whichever rows of it are read.
#include "convert/content_checks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/errors.h"
#include "base/hash.h"
#include "convert/manifest.h"
#include "convert/native_config.h"
#include "convert/segment_source.h"

namespace ponte {
namespace {

using Bytes = std::vector<std::byte>;
constexpr const char* kPrefixes[] = {"optimizer.state.param.", "optimizer.state.exp_avg.", "optimizer.state.exp_avg_sq."};

// A golden checkpoint, writable, with a manifest as Ponte would have written it.
class Copy {
 public:
  explicit Copy(const char* golden) {
    fs::remove_all(root_);
    const fs::path from = iteration_directory(fs::path(PONTE_GOLDEN_DIR) / golden);
    fs::create_directories(root_);
    fs::copy(from, folder, fs::copy_options::recursive);
    for (const auto& entry : fs::recursive_directory_iterator(folder)) fs::permissions(entry.path(), fs::perms::owner_write, fs::perm_options::add);
    const TorchDistReader reader(folder);
    Manifest manifest;
    for (const TorchDistTensor& tensor : reader.tensors()) {
      ManifestTensor& written = manifest.tensors[tensor.name];
      written = {tensor.dtype, tensor.shape, {}};
      for (const TorchDistChunk& chunk : tensor.chunks) {
        const ChunkBytes bytes = reader.bytes(tensor, chunk);
        written.chunks.push_back({chunk.offsets, chunk.sizes, content_hash(bytes.bytes)});
        if (!bytes.owned && !bytes.bytes.empty())
          places.push_back({tensor.name, reader.file(chunk.file).path(), bytes.file_offset, bytes.bytes.size()});
      }
    }
    write_native_manifest(folder, manifest);
  }
  ~Copy() { fs::remove_all(root_); }

  struct Place {
    std::string tensor;
    fs::path file;
    uint64_t offset, bytes;
  };
  std::vector<Place> places;  // of every chunk

 private:
  fs::path root_ = fs::temp_directory_path() / format("ponte-content-{}", static_cast<int64_t>(::getpid()));

 public:
  fs::path folder = root_ / "iter_0000003";
};

// One bit of a byte is another for as long as this lives.
class Flip {
 public:
  Flip(const fs::path& file, uint64_t offset, char bit = 1) : file_(file), offset_(offset), bit_(bit) { turn(); }
  ~Flip() { turn(); }
  Flip(const Flip&) = delete;

 private:
  void turn() {
    std::fstream stream(file_, std::ios::in | std::ios::out | std::ios::binary);
    char byte = 0;
    stream.seekg(static_cast<std::streamoff>(offset_)).read(&byte, 1);
    byte = static_cast<char>(byte ^ bit_);
    stream.seekp(static_cast<std::streamoff>(offset_)).write(&byte, 1);
    if (!stream) ADD_FAILURE() << "cannot change " << file_;
  }
  fs::path file_;
  uint64_t offset_;
  char bit_;
};

Bytes buffer_for(const Slice& slice) {
  int64_t elements = 1;
  for (const int64_t extent : slice.shape) elements *= extent;
  return Bytes(static_cast<size_t>(elements * 4));
}

// Weights and optimizer state of one tensor-parallel rank, as a run reads them.
Bytes read_all(const NativeSource& source, TensorParallel rank = {}) {
  Bytes out;
  for (const Rule& rule : source.rules().rules) {
    const Slice slice = slice_of(rule, rank);
    Bytes bytes = buffer_for(slice);
    source.read(rule, slice, bytes, DType::f32);
    out.insert(out.end(), bytes.begin(), bytes.end());
    for (const char* prefix : kPrefixes)
      if (source.has_state(prefix, rule)) {
        source.read_state(prefix, rule, slice, bytes, DType::f32);
        out.insert(out.end(), bytes.begin(), bytes.end());
      }
  }
  return out;
}

template <class Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

bool names(const std::string& error, const Copy::Place& place) {
  return error.find(place.tensor) != std::string::npos && error.find(place.file.filename().string()) != std::string::npos;
}

// Steps and random states have CRCs, which are checked when they are taken; what lies between flat parameters holds nothing.
bool is_read(const Copy::Place& place) {
  const bool is_gap = place.tensor.find("bucket_idx_") != std::string::npos && (place.bytes == 48 * 4 || place.bytes == 56 * 4);
  return !is_gap && !place.tensor.ends_with(".step") && !place.tensor.starts_with("rng_state");
}

class ContentChecksOf : public testing::TestWithParam<const char*> {};

TEST_P(ContentChecksOf, EveryChunkOfEveryTensor) {
  const Copy copy(GetParam());
  const Bytes intact = read_all(NativeSource(fs::path(PONTE_GOLDEN_DIR) / GetParam(), nullptr));
  EXPECT_EQ(read_all(NativeSource(copy.folder, nullptr)), intact);
  size_t n = 0;
  for (const Copy::Place& place : copy.places) {
    const uint64_t at[] = {0, place.bytes / 2, place.bytes - 1};
    const Flip flip(place.file, place.offset + at[n % 3], static_cast<char>(1 << n % 8));
    ++n;
    const std::string whole = error_of([&] { read_all(NativeSource(copy.folder, nullptr)); });
    EXPECT_EQ(names(whole, place), is_read(place)) << place.tensor << ": " << whole;
    // One of three ranks finds it, whoever reads it.
    NativeSource source(copy.folder, nullptr);
    int64_t found = 0;
    for (int64_t rank = 0; rank < 3; ++rank) {
      const std::string part = error_of([&] { source.check_part({rank, 3}, WeightSource::Contents::weights_and_state); });
      found += !part.empty();
      EXPECT_TRUE(part.empty() || names(part, place)) << part;
    }
    EXPECT_EQ(found, 1) << place.tensor;
  }
  EXPECT_EQ(read_all(NativeSource(copy.folder, nullptr)), intact);
}

TEST_P(ContentChecksOf, PartsAreAboutEqualAndLieTogether) {
  const Copy copy(GetParam());
  const NativeSource source(copy.folder, nullptr);
  const std::vector<ContentCheck*> all = source.checks().of_tensors([](const TorchDistTensor&) { return true; });
  EXPECT_GE(all.size(), copy.places.size());
  source.checks().compare(all, {0, 2}, 1, "");
  const auto first_undone = std::ranges::find_if(all, [](const ContentCheck* check) { return !check->done(); });
  EXPECT_TRUE(std::all_of(first_undone, all.end(), [](const ContentCheck* check) { return !check->done(); }));
  uint64_t done = 0, total = 0, largest = 0;
  for (const ContentCheck* check : all) {
    const auto bytes = static_cast<uint64_t>(tensor_bytes({"", check->tensor().dtype, check->chunk().sizes}));
    total += bytes;
    largest = std::max(largest, bytes);
    if (check->done()) done += bytes;
  }
  EXPECT_LE(std::max(done, total - done) - total / 2, largest);
}

INSTANTIATE_TEST_SUITE_P(Formats, ContentChecksOf,
                         testing::Values("qwen3_tp2pp2/mcore", "trained/qwen3_opt_fully_reshardable/mcore", "trained/qwen3_opt_dp_reshardable/mcore",
                                         "trained/qwen3_fsdp_opt/fsdp"));

// Rank 1 takes rows 256 to 511 of the embedding; the byte is one of row 0's, in the same chunk.
TEST(ContentChecks, RowsThatAreNotRead) {
  const Copy copy("qwen3_untied/mcore");
  const auto place = std::ranges::find(copy.places, "embedding.word_embeddings.weight", &Copy::Place::tensor);
  ASSERT_NE(place, copy.places.end());
  const Flip flip(place->file, place->offset);
  NativeSource source(copy.folder, nullptr);
  const Rule& rule = source.rules().find("embedding.word_embeddings.weight");
  const Slice slice = slice_of(rule, {.rank = 1, .size = 2});
  Bytes out = buffer_for(slice);
  const auto read = [&] { source.read(rule, slice, out, DType::f32); };
  EXPECT_TRUE(names(error_of(read), *place));
  EXPECT_EQ(error_of(read), error_of(read)) << "again, and not once only";
  // What the others have checked is not checked again.
  for (int64_t rank = 0; rank < 2; ++rank) error_of([&] { source.check_part({rank, 2}, WeightSource::Contents::weights); });
  source.take_as_checked();
  EXPECT_EQ(error_of(read), "");
}

TEST(ContentChecks, FewerThanAllTensorsMayHaveHashes) {
  const Copy copy("trained/qwen3_opt_fully_reshardable/mcore");
  const fs::path file = copy.folder / kKeptFolder / kNativeManifest;
  Manifest manifest = read_manifest(file);
  std::erase_if(manifest.tensors, [](const auto& entry) { return entry.first.starts_with("optimizer."); });
  manifest.files.clear();
  write_file_atomically(file, manifest_text(manifest));
  for (size_t i = 0; i < copy.places.size(); i += 7) {
    const Copy::Place& place = copy.places[i];
    const Flip flip(place.file, place.offset);
    EXPECT_EQ(error_of([&] { read_all(NativeSource(copy.folder, nullptr)); }).empty(), place.tensor.starts_with("optimizer.")) << place.tensor;
  }
  fs::remove(file);
  const Flip flip(copy.places[0].file, copy.places[0].offset);
  EXPECT_NO_THROW(read_all(NativeSource(copy.folder, nullptr)));
}

TEST(ContentChecks, SmallFiles) {
  const Copy copy("trained/qwen3_opt_fully_reshardable/mcore");
  for (const char* name : {".metadata", "common.pt", "train_state.pt"}) {
    const fs::path file = copy.folder / name;
    const uint64_t bytes = fs::file_size(file);
    for (const uint64_t at : {uint64_t{0}, bytes / 3, bytes / 2, bytes - 1}) {
      const Flip flip(file, at);
      const std::string error = error_of([&] { NativeSource(copy.folder, nullptr); });
      EXPECT_NE(error.find(name), std::string::npos) << name << " at " << at << ": " << error;
    }
  }
  fs::remove(copy.folder / "train_state.pt");
  EXPECT_NE(error_of([&] { NativeSource(copy.folder, nullptr); }).find("train_state.pt: gone"), std::string::npos);
}

TEST(ContentChecks, TheManifestItself) {
  const Copy copy("qwen3_untied/mcore");
  const fs::path file = copy.folder / kKeptFolder / kNativeManifest;
  const uint64_t bytes = fs::file_size(file);
  for (uint64_t at = 0; at + 1 < bytes; at += at + 200 < bytes ? 41 : 1) {
    const Flip flip(file, at, static_cast<char>(1 << at % 7));
    const std::string error = error_of([&] { NativeSource(copy.folder, nullptr); });
    EXPECT_NE(error.find("manifest.json"), std::string::npos) << "byte " << at << ": " << error;
  }
  write_file_atomically(file, read_file(file).substr(0, bytes - 30));
  EXPECT_NE(error_of([&] { NativeSource(copy.folder, nullptr); }).find("manifest.json"), std::string::npos);
}

}  // namespace
}  // namespace ponte
