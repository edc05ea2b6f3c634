#include "format/indexed_dataset.h"

#include <cstring>

#include "scratch.h"

namespace ponte {
namespace {

using Ids = std::vector<int32_t>;

struct Document {
  Ids tokens, lengths;
};

void write(const fs::path& prefix, DType dtype, const std::vector<Document>& documents) {
  IndexedDatasetWriter writer(prefix, dtype);
  for (const Document& d : documents) writer.add_document(d.tokens, d.lengths);
  writer.finalize();
  writer.remove_spools();
}

const std::vector<Document> kDocuments = {{{5, 6, 7}, {3}}, {{}, {}}, {{9, 8, 7, 6}, {1, 3}}};

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// The .idx of kDocuments by hand, from the format's description.
std::string index_of_documents(uint8_t dtype_code, int64_t width) {
  std::string out("MMIDIDX\0\0", 9);
  put<uint64_t>(out, 1);
  put<uint8_t>(out, dtype_code);
  put<uint64_t>(out, 3);
  put<uint64_t>(out, 4);
  for (int32_t length : {3, 1, 3}) put(out, length);
  for (int64_t pointer : {0, 3, 4}) put<int64_t>(out, pointer * width);
  for (int64_t boundary : {0, 1, 1, 3}) put(out, boundary);
  return out;
}

TEST(IndexedDataset, WritesTheFormatByteForByte) {
  const Scratch scratch;
  write(scratch / "small", DType::u16, kDocuments);
  EXPECT_EQ(read_file(scratch / "small.idx"), index_of_documents(8, 2));
  EXPECT_EQ(read_file(scratch / "small.bin"), std::string("\5\0\6\0\7\0\11\0\10\0\7\0\6\0", 14));
  write(scratch / "wide", DType::i32, kDocuments);
  EXPECT_EQ(read_file(scratch / "wide.idx"), index_of_documents(4, 4));
  EXPECT_FALSE(fs::exists(scratch / "wide.lengths") || fs::exists(scratch / "wide.documents"));
}

TEST(IndexedDataset, PicksTheWidthMegatronPicks) {
  EXPECT_EQ(token_dtype(65499), DType::u16);
  EXPECT_EQ(token_dtype(65500), DType::i32);
}

TEST(IndexedDataset, ReadsBack) {
  const Scratch scratch;
  for (DType dtype : {DType::u16, DType::i32}) {
    write(scratch / "d.v1", dtype, kDocuments);
    const IndexedDataset dataset(scratch / "d.v1");
    EXPECT_EQ(dataset.sequences(), 3);
    EXPECT_EQ(dataset.documents(), 3);
    EXPECT_EQ(dataset.total_tokens(), 7);
    EXPECT_EQ(dataset.sequence(2), (Ids{8, 7, 6}));
    Ids flat(4);
    dataset.read_flat(2, flat);
    EXPECT_EQ(flat, (Ids{7, 9, 8, 7}));
    dataset.verify();
    EXPECT_USER_ERROR(dataset.sequence(3), "sequence 3 of 3");
    Ids two(2);
    EXPECT_USER_ERROR(dataset.read(1, 0, two), "sequence 1, which has 1");
    EXPECT_USER_ERROR(dataset.read(0, -1, two), "sequence 0");
    EXPECT_USER_ERROR(dataset.read_flat(6, two), "of 7");
  }
}

TEST(IndexedDataset, EmptyOnesAreWhole) {
  const Scratch scratch;
  write(scratch / "none", DType::i32, {});
  const IndexedDataset dataset(scratch / "none");
  EXPECT_EQ(dataset.documents(), 0);
  dataset.verify();
}

TEST(IndexedDataset, SequenceModesAreReadWhenAsked) {
  const Scratch scratch;
  scratch.write("m.idx", index_of_documents(8, 2) + std::string("\1\0\2", 3));
  scratch.write("m.bin", std::string(14, 'x'));
  EXPECT_EQ(IndexedDataset(scratch / "m", SequenceModes::present).sequence_mode(2), 2);
  EXPECT_EQ(IndexedDataset(scratch / "m").sequences(), 3);
}

TEST(IndexedDataset, RefusesIdsThatDoNotFit) {
  const Scratch scratch;
  IndexedDatasetWriter writer(scratch / "x", DType::u16);
  EXPECT_USER_ERROR(writer.add_document(Ids{65536}, Ids{1}), "65536 does not fit 16 bits");
  EXPECT_USER_ERROR(writer.add_document(Ids{-1}, Ids{1}), "-1 does not fit 16 bits");
  EXPECT_USER_ERROR(IndexedDatasetWriter(scratch / "y", DType::f32), "F32");
}

TEST(IndexedDataset, GoesOnFromAPosition) {
  const Scratch scratch;
  write(scratch / "whole", DType::u16, kDocuments);
  IndexedDatasetWriter::Position at;
  {
    IndexedDatasetWriter writer(scratch / "cut", DType::u16);
    writer.add_document(kDocuments[0].tokens, kDocuments[0].lengths);
    writer.flush();
    at = writer.position();
    writer.add_document(Ids{1, 1, 1}, Ids{3});  // lost: it comes after the position
    writer.flush();
  }
  IndexedDatasetWriter writer(scratch / "cut", DType::u16, at);
  for (size_t d = 1; d < kDocuments.size(); ++d) writer.add_document(kDocuments[d].tokens, kDocuments[d].lengths);
  writer.finalize();
  EXPECT_EQ(read_file(scratch / "cut.idx"), read_file(scratch / "whole.idx"));
  EXPECT_EQ(read_file(scratch / "cut.bin"), read_file(scratch / "whole.bin"));
  at.tokens = 1000;
  EXPECT_USER_ERROR(IndexedDatasetWriter(scratch / "cut", DType::u16, at), "14 bytes, but the interrupted run had written 2000");
}

TEST(IndexedDataset, JoinsAsIfWrittenTogether) {
  const Scratch scratch;
  write(scratch / "a", DType::u16, {kDocuments[0], kDocuments[1]});
  write(scratch / "b", DType::u16, {kDocuments[2]});
  write(scratch / "c", DType::i32, {kDocuments[2]});
  write(scratch / "whole", DType::u16, kDocuments);
  IndexedDatasetWriter writer(scratch / "joined", DType::u16);
  writer.add_dataset(IndexedDataset(scratch / "a"));
  writer.add_dataset(IndexedDataset(scratch / "b"));
  EXPECT_USER_ERROR(writer.add_dataset(IndexedDataset(scratch / "c")), "ids are I32, wanted U16");
  writer.finalize();
  EXPECT_EQ(read_file(scratch / "joined.idx"), read_file(scratch / "whole.idx"));
  EXPECT_EQ(read_file(scratch / "joined.bin"), read_file(scratch / "whole.bin"));
}

// Damage at one place of a good file, and the error it must give: at once, or by verify().
struct Damage {
  const char* name;
  size_t at;
  std::string bytes;
  const char* error;
};

std::string little(int64_t value, size_t width) { return std::string(reinterpret_cast<const char*>(&value), width); }

TEST(IndexedDataset, RefusesDamagedIndices) {
  const Scratch scratch;
  const std::string good = index_of_documents(8, 2);
  scratch.write("d.bin", std::string(14, 'x'));
  const std::vector<Damage> cases = {
      {"magic", 0, "X", "not a Megatron index"},
      {"version", 9, little(2, 8), "version 2"},
      {"dtype 0", 17, little(0, 1), "dtype code 0"},
      {"dtype 9", 17, little(9, 1), "dtype code 9"},
      {"floating dtype", 17, little(7, 1), "wanted token ids"},
      {"wider dtype", 17, little(5, 1), "places its last sequence"},
      {"negative sequences", 18, little(-1, 8), "negative count"},
      {"huge sequences", 18, little(INT64_MAX, 8), "overflows"},
      {"more sequences", 18, little(4, 8), "truncated"},
      {"fewer sequences", 18, little(2, 8), "bytes, but 2 sequences"},
      {"no boundaries", 26, little(0, 8), "no document boundaries"},
      {"huge boundaries", 26, little(INT64_MAX / 4, 8), "overflows"},
      {"negative length of the last", 34 + 8, little(-1, 4), "not a whole"},
      {"long last sequence", 34 + 8, little(1 << 30, 4), "places its last sequence"},
      {"last pointer beyond", 34 + 12 + 16, little(INT64_MAX, 8), "overflows"},
      {"last pointer negative", 34 + 12 + 16, little(-100, 8), "places its last sequence"},
      {"documents start at 1", 34 + 36, little(1, 8), "wanted 0 to 3"},
      {"documents end early", 34 + 36 + 24, little(2, 8), "wanted 0 to 3"},
      {"negative length inside", 34, little(-3, 4), "length -3"},
      {"length inside", 34, little(2, 4), "starts at byte 6, wanted 4"},
      {"pointer inside", 34 + 12 + 8, little(2, 8), "starts at byte 2, wanted 6"},
      {"boundary beyond", 34 + 36 + 8, little(4, 8), "ends at sequence 4"},
      {"boundary backwards", 34 + 36 + 16, little(0, 8), "ends at sequence 0"},
  };
  for (const Damage& damage : cases) {
    std::string bytes = good;
    bytes.replace(damage.at, damage.bytes.size(), damage.bytes);
    scratch.write("d.idx", bytes);
    const auto open_and_verify = [&] {
      const IndexedDataset dataset(scratch / "d");
      for (int64_t i = 0; i < dataset.sequences(); ++i) {
        try {
          dataset.sequence(i);  // whatever the file says, reading stays inside it
        } catch (const UserError&) {
        }
      }
      dataset.verify();
    };
    if (std::string_view(damage.name) == "negative length of the last") {
      EXPECT_USER_ERROR(open_and_verify(), "length -1");
    } else {
      EXPECT_NE(user_error(open_and_verify).find(damage.error), std::string::npos) << damage.name << ": " << user_error(open_and_verify);
    }
  }
  for (size_t size = 0; size < good.size(); ++size) {
    scratch.write("d.idx", good.substr(0, size));
    EXPECT_THROW(IndexedDataset(scratch / "d"), UserError) << size;
  }
  scratch.write("d.idx", good);
  for (size_t size = 0; size < 14; ++size) {
    scratch.write("d.bin", std::string(size, 'x'));
    EXPECT_THROW(IndexedDataset(scratch / "d"), UserError) << size;
  }
  fs::remove(scratch / "d.bin");
  EXPECT_USER_ERROR(IndexedDataset(scratch / "d"), "d.bin: not found");
}

TEST(IndexedDataset, FingerprintFollowsTheContentNotThePlace) {
  const Scratch scratch;
  write(scratch / "a", DType::u16, kDocuments);
  write(scratch / "b", DType::u16, kDocuments);
  EXPECT_EQ(IndexedDataset(scratch / "a").fingerprint(), IndexedDataset(scratch / "b").fingerprint());
  auto changed = kDocuments;
  changed[0].tokens[1] = 1;
  write(scratch / "b", DType::u16, changed);
  EXPECT_NE(IndexedDataset(scratch / "a").fingerprint(), IndexedDataset(scratch / "b").fingerprint());
}

}  // namespace
}  // namespace ponte
