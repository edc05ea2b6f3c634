// Manifests read back as written; anything else is an error.
#include "convert/manifest.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/format.h"

namespace ponte {
namespace {

const fs::path kFile = fs::temp_directory_path() / format("ponte-manifest-{}.json", static_cast<int64_t>(::getpid()));

TEST(Manifest, ReadsWhatItWrites) {
  Manifest manifest;
  manifest.architecture = "Qwen3ForCausalLM";
  manifest.casts = {"a: torch.float32 to torch.bfloat16"};
  manifest.dropped = {"lm_head.weight: equal to \"x\""};
  manifest.absent = {"mtp.fc.weight: the model has 0"};
  manifest.tensors["b\"quoted"] = {DType::bf16, {2, 3}, {{{0, 0}, {1, 3}, "00ff"}, {{1, 0}, {1, 3}, "ee11"}}};
  manifest.tensors["scalar"] = {DType::f32, {}, {{{}, {}, "aa"}}};
  manifest.files = {{".metadata", "01"}, {"ponte/run.json", "02"}};
  write_file_atomically(kFile, manifest_text(manifest));
  const Manifest back = read_manifest(kFile);
  EXPECT_EQ(manifest_text(back), manifest_text(manifest));
  EXPECT_EQ(back.tensors.at("b\"quoted").chunks[1].offsets, (Shape{1, 0}));
  EXPECT_EQ(back.casts, manifest.casts);
  EXPECT_EQ(back.dropped, manifest.dropped);
  EXPECT_EQ(back.absent, manifest.absent);
  EXPECT_EQ(back.files, manifest.files);
  fs::remove(kFile);
}

// Without files, and without a hash of itself.
TEST(Manifest, OfBeforeIsRead) {
  const Manifest back = parse_manifest(R"({"ponte_manifest": 1, "architecture": "x", "casts": [], "dropped": [], "absent": [], "tensors": {}})", "m.json");
  EXPECT_EQ(back.architecture, "x");
  EXPECT_TRUE(back.files.empty());
}

TEST(Manifest, OtherDocumentsAreErrors) {
  for (const char* text : {"", "[]", "{}", R"({"ponte_manifest": 2, "architecture": "x", "tensors": {}})", R"({"ponte_manifest": 1, "architecture": "x"})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {}, "file": {}})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {}, "files": {".metadata": 1}})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {}, "files": {"../a": "00"}})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {}, "xxh3_128": "00"})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {"a": 1}})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {"a": {"dtype": "B16", "shape": [], "chunks": []}}})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {"a": {"dtype": "F32", "shape": ["1"], "chunks": []}}})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {"a": {"dtype": "F32", "shape": [1], "chunks": [1]}}})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {"a": {"dtype": "F32", "shape": [1], "chunks": [{"offsets": [0]}]}}})",
                           R"({"ponte_manifest": 1, "architecture": "x", "tensors": {"a": {"dtype": "F32", "shape": [1], "chunks": [{"offsets": [0],
                               "sizes": [1], "xxh3_128": "4e\b0"}]}}})"}) {
    write_file_atomically(kFile, text);
    EXPECT_THROW(read_manifest(kFile), UserError) << text;
  }
  fs::remove(kFile);
}

}  // namespace
}  // namespace ponte
