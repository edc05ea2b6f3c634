// DCP folders: every golden against its keys.txt, a round trip from several threads and ranks, and folders that are wrong.
#include "format/torch_dist.h"

#include <fstream>
#include <map>
#include <set>

#include "base/parallel.h"
#include "format/torch_dist_metadata.h"
#include "format_testing.h"

namespace ponte {
namespace {

// "(2, 64)" as keys.txt prints shapes; a single extent has a comma behind it.
std::string python(const std::vector<int64_t>& v) {
  std::string out = "(";
  for (size_t i = 0; i < v.size(); ++i) out += (i ? ", " : "") + std::to_string(v[i]);
  return out + (v.size() == 1 ? ",)" : ")");
}

void expect_keys(const fs::path& folder, const fs::path& keys) {
  SCOPED_TRACE(folder);
  const TorchDistReader reader(folder);
  const std::set<std::string> objects(reader.objects().begin(), reader.objects().end());
  size_t tensors = 0, blobs = 0;
  std::ifstream in(keys);
  for (std::string line; std::getline(in, line);) {
    const auto fields = split(line, '\t');
    if (fields[1] == "bytes") {
      ++blobs;
      EXPECT_TRUE(objects.contains(fields[0])) << fields[0];
      continue;
    }
    ++tensors;
    const TorchDistTensor* t = reader.find(fields[0]);
    ASSERT_NE(t, nullptr) << fields[0];
    EXPECT_EQ(torch_name(t->dtype), fields[2]);
    EXPECT_EQ(python(t->shape), fields[3]);
    EXPECT_NE(fields[4].find(format("n={}", t->chunks.size())), std::string::npos) << line;
    size_t listed = 0;
    for (const TorchDistChunk& c : t->chunks) {
      listed += fields[4].find(format("({}, {})", python(c.offsets), python(c.sizes))) != std::string::npos;
      EXPECT_EQ(reader.bytes(*t, c, CheckCrc::yes).bytes.size(), static_cast<size_t>(tensor_bytes({t->name, t->dtype, c.sizes})));
      if (fields.size() > 5) { EXPECT_NE(fields[5].find(reader.file(c.file).path().filename()), std::string::npos); }
    }
    if (fields[4].find("...") == std::string::npos) { EXPECT_EQ(listed, t->chunks.size()) << line; }
    else { EXPECT_GE(listed, 3u) << line; }
  }
  EXPECT_EQ(tensors, reader.tensors().size());
  EXPECT_EQ(blobs, reader.objects().size());
}

TEST(TorchDist, GoldensHaveTheirKeys) {
  for (const char* name : {"qwen2", "qwen3", "qwen3_untied", "qwen3_v515", "qwen3_tp2pp2"})
    expect_keys(golden(name) / "mcore/iter_0000000", golden(name) / "keys.txt");
  expect_keys(golden("qwen3_fsdp/fsdp/iter_0000000"), golden("qwen3_fsdp/keys.txt"));
  const fs::path trained = golden("trained/qwen3_opt_fully_reshardable");
  expect_keys(trained / "mcore/iter_0000003", trained / "keys.txt");
}

TEST(TorchDist, BothDialectsTellTheirCommonState) {
  for (const char* name : {"qwen3/mcore/iter_0000000", "mcore016/qwen3/mcore/iter_0000000"}) {
    const auto common = TorchDistReader(golden(name)).common_state();
    ASSERT_TRUE(common.has_value()) << name;
    EXPECT_EQ(common->at("checkpoint_version", name).as_real(name), 3.0);
    EXPECT_FALSE(common->at("content_metadata", name).at("singleton_local_shards", name).as_boolean(name));
    EXPECT_TRUE(read_metadata_json(golden(name)).has_value());
  }
  EXPECT_FALSE(TorchDistReader(golden("qwen3_fsdp/fsdp/iter_0000000")).common_state().has_value());
  EXPECT_FALSE(read_metadata_json(golden("qwen3_fsdp/fsdp/iter_0000000")).has_value());
  EXPECT_EQ(metadata_json(), read_file(golden("mcore016/qwen3/mcore/iter_0000000/metadata.json")));
}

std::string pattern(size_t bytes, int seed) {
  std::string out(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<char>(i * 131 + static_cast<size_t>(seed) * 17 + (i >> 8));
  return out;
}

TEST(TorchDistWriter, PiecesFromThreadsComeBack) {
  TemporaryFolder folder;
  const TensorSpec weight{"w", DType::bf16, {4, 300, 500}}, norm{"n", DType::f32, {7}}, scalar{"s", DType::i64, {}}, empty{"e", DType::u8, {0, 3}};
  std::vector<std::string> data;
  TorchDistWriter writer(folder.path(), {.rank = 3, .files = 2});
  for (int64_t layer = 0; layer < 4; ++layer) writer.add_chunk(weight, {layer, 0, 0}, {1, 300, 500});
  for (const TensorSpec* t : {&norm, &scalar, &empty}) writer.add_tensor(*t);
  for (size_t i = 0; i < writer.chunks(); ++i) data.push_back(pattern(writer.chunk_bytes(i), static_cast<int>(i)));
  writer.add_object("o/shard_0_1", Value::dict_of({{"k", Value::integer(9)}}));
  writer.begin();
  constexpr size_t kPiece = 70'001;
  parallel_for(static_cast<int64_t>(data.size()) * 5, 4, [&](int64_t job) {
    const size_t chunk = static_cast<size_t>(job) / 5, begin = static_cast<size_t>(job) % 5 * kPiece;
    if (begin < data[chunk].size()) writer.write(chunk, begin, bytes_of(data[chunk]).subspan(begin, std::min(kPiece, data[chunk].size() - begin)));
  });
  writer.finish();

  const TorchDistReader reader(folder.path());
  size_t i = 0;
  for (const TorchDistTensor& t : reader.tensors()) {
    for (const TorchDistChunk& c : t.chunks) {
      const ChunkBytes stored = reader.bytes(t, c, CheckCrc::yes);
      EXPECT_TRUE(std::equal(stored.bytes.begin(), stored.bytes.end(), bytes_of(data[i]).begin(), bytes_of(data[i]).end())) << t.name << " " << i;
      if (!stored.bytes.empty()) {
        EXPECT_EQ(stored.file_offset % 64, 0u);
        EXPECT_EQ(reader.file(c.file).bytes().data() + stored.file_offset, stored.bytes.data());
      }
      ++i;
    }
  }
  EXPECT_EQ(i + 1, data.size());  // the empty tensor has no chunk with elements
  EXPECT_EQ(reader.at("e").shape, (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(reader.object("o/shard_0_1").at("k", "").as_integer(""), 9);
  EXPECT_EQ(reader.files(), 2u);
  EXPECT_TRUE(fs::exists(folder / "__3_1.distcp"));
}

TEST(TorchDistWriter, EveryByteExactlyOnce) {
  struct Case {
    std::vector<std::pair<uint64_t, size_t>> pieces;
    const char* error;
  };
  for (const Case& c : {Case{{{0, 10}}, "10 of 12 bytes were written"}, Case{{{0, 4}, {6, 6}}, "bytes 4 to 6 were never written"},
                        Case{{{0, 8}, {6, 6}}, "bytes 6 to 8 were written twice"}, Case{{}, "0 of 12 bytes"}}) {
    TemporaryFolder folder;
    TorchDistWriter writer(folder.path());
    writer.add_tensor({"w", DType::f32, {3}});
    writer.begin();
    const std::string data(12, 'x');
    for (const auto& [offset, size] : c.pieces) writer.write(0, offset, bytes_of(data).first(size));
    expect_error(c.error, [&] { writer.finish(); });
    EXPECT_FALSE(fs::exists(folder / ".metadata"));
  }
  TemporaryFolder folder;
  TorchDistWriter writer(folder.path());
  writer.add_tensor({"w", DType::f32, {3}});
  writer.begin();
  EXPECT_THROW(writer.write(0, 8, bytes_of("12345")), InternalError);
  EXPECT_THROW(writer.write(1, 0, bytes_of("1")), InternalError);
}

// Two ranks write halves of one tensor; the parts are joined afterwards.
std::vector<std::string> write_ranks(const fs::path& folder, std::vector<std::pair<int64_t, int64_t>> rows, bool same_object = false) {
  std::vector<std::string> parts;
  for (size_t rank = 0; rank < rows.size(); ++rank) {
    TorchDistWriter writer(folder, {.rank = static_cast<int64_t>(rank), .files = 1});
    writer.add_chunk({"w", DType::u8, {4, 2}}, {rows[rank].first, 0}, {rows[rank].second, 2});
    writer.add_object(same_object ? "o" : format("o{}", rank), Value());
    writer.begin();
    const std::string data(static_cast<size_t>(rows[rank].second) * 2, static_cast<char>('a' + rank));
    writer.write(0, 0, bytes_of(data));
    parts.push_back(writer.finish_rank());
  }
  return parts;
}

TEST(TorchDistWriter, RanksJoinTheirParts) {
  TemporaryFolder folder;
  write_dist_metadata(folder.path(), write_ranks(folder.path(), {{0, 1}, {1, 3}}));
  const TorchDistReader reader(folder.path());
  ASSERT_EQ(reader.at("w").chunks.size(), 2u);
  EXPECT_EQ(static_cast<char>(reader.bytes(reader.at("w"), reader.at("w").chunks[1]).bytes[5]), 'b');
  EXPECT_EQ(reader.objects(), (std::vector<std::string>{"o0", "o1"}));
}

TEST(TorchDistWriter, RanksThatDisagree) {
  TemporaryFolder a, b, c;
  expect_error("its chunks hold 6 of 8 elements", [&] { write_dist_metadata(a.path(), write_ranks(a.path(), {{0, 1}, {2, 2}})); });
  expect_error("chunks at [0, 0] and [1, 0] overlap", [&] { write_dist_metadata(b.path(), write_ranks(b.path(), {{0, 2}, {1, 2}})); });
  expect_error("'o' is written by two ranks", [&] { write_dist_metadata(c.path(), write_ranks(c.path(), {{0, 2}, {2, 2}}, true)); });
}

// A small sound folder whose metadata a case may change before it is written out.
class Folders : public testing::Test {
 protected:
  void SetUp() override {
    TorchDistWriter writer(folder_.path(), {.rank = 0, .files = 1});
    writer.add_chunk({"w", DType::f32, {2, 3}}, {0, 0}, {1, 3});
    writer.add_chunk({"w", DType::f32, {2, 3}}, {1, 0}, {1, 3});
    writer.add_object("o", Value::text("hello"));
    writer.begin();
    for (size_t i = 0; i < 2; ++i) writer.write(i, 0, bytes_of("abcdefghijkl"));
    writer.finish();
    metadata_ = parse_dist_metadata(bytes_of(read_file(folder_ / ".metadata")), "m");
  }
  void expect(std::string_view error, const std::function<void(DistMetadata&)>& change) {
    SCOPED_TRACE(error);
    DistMetadata m = metadata_;
    change(m);
    write_file_atomically(folder_ / ".metadata", render_dist_metadata(m));
    expect_error(error, [&] {
      const TorchDistReader reader(folder_.path());
      for (const TorchDistTensor& t : reader.tensors())
        for (const TorchDistChunk& c : t.chunks) reader.bytes(t, c);
      for (const std::string& name : reader.objects()) reader.object(name);
    });
  }
  TemporaryFolder folder_;
  DistMetadata metadata_;
};

TEST_F(Folders, WrongMetadataIsNamed) {
  expect("wanted a plain file name", [](auto& m) { m.items[0].storage.file = "../__0_0.distcp"; });
  expect("wanted a plain file name", [](auto& m) { m.items[0].storage.file = "/etc/passwd"; });
  expect("wanted a plain file name", [](auto& m) { m.items[2].storage.file = ".."; });
  expect("data file __9_0.distcp is missing; 'w' lies in it", [](auto& m) { m.items[1].storage.file = "__9_0.distcp"; });
  expect("truncated?", [](auto& m) { m.items[0].storage.bytes = 1 << 20; });
  expect("truncated?", [](auto& m) { m.items[0].storage.offset = INT64_MAX; });
  expect("not a zip archive", [](auto& m) { m.items[0].storage.bytes -= 1; });
  expect("the chunk at [1, 0] has no data", [](auto& m) { m.items.erase(m.items.begin() + 1); });
  expect("object 'o' has no data", [](auto& m) { m.items.pop_back(); });
  expect("stored as torch.float32, .metadata says torch.int32", [](auto& m) { m.tensors[0].dtype = DType::i32; });
  expect("stored with shape [1, 3], .metadata says [2, 3]", [](auto& m) {
    m.tensors[0].chunks = {{{0, 0}, {2, 3}, 0, 0, 0}};
    m.items.erase(m.items.begin() + 1);
  });
  expect("its chunks hold 3 of 6 elements", [](auto& m) { m.tensors[0].chunks.pop_back(); });
  expect("leaves shape [2, 3]", [](auto& m) { m.tensors[0].chunks[1].offsets = {2, 0}, *m.items[1].offsets = {2, 0}; });
  expect("in a tensor of shape [2, 3]", [](auto& m) { m.tensors[0].chunks[1].offsets = {1}; });
  expect("overflows", [](auto& m) { m.tensors[0].shape = {1ll << 40, 1ll << 40}; });
  expect("two entries named 'w'", [](auto& m) { m.objects.push_back("w"); });
}

// Megatron Core 0.15 pickles subclasses of its own and hangs the save plans of all ranks onto the metadata.
TEST_F(Folders, MegatronsOwnMetadataClassesAreReadOver) {
  const Value plain = read_pickle(bytes_of(render_dist_metadata(metadata_)), "m");
  const std::string planner = "torch.distributed.checkpoint.planner", mcore = "megatron.core.dist_checkpointing.strategies.torch";
  const Value item = Value::construct(planner, "WriteItem", {}, Value::dict_of({{"type", Value::call(planner, "WriteItemType", {Value::integer(2)})}}));
  const Value plan = Value::construct(mcore, "MCoreSavePlan", {}, Value::dict_of({{"items", Value::list({item})}}));
  const Value metadata = Value::construct(mcore, "MCoreMetadata", {},
                                          Value::dict_of({{"state_dict_metadata", plain.at("state_dict_metadata", "m")},
                                                          {"storage_data", plain.at("storage_data", "m")},
                                                          {"all_local_plans", Value::list({plan})},
                                                          {"mcore_data", Value::dict({})}}));
  write_file_atomically(folder_ / ".metadata", write_pickle(metadata));
  const TorchDistReader reader(folder_.path());
  EXPECT_EQ(reader.at("w").chunks.size(), 2u);
  EXPECT_EQ(reader.object("o").as_text("o"), "hello");
}

TEST_F(Folders, DamagedFiles) {
  const std::string data = read_file(folder_ / "__0_0.distcp"), metadata = read_file(folder_ / ".metadata");
  write_file_atomically(folder_ / "__0_0.distcp", data.substr(0, data.size() - 10));
  expect_error("truncated?", [&] { TorchDistReader reader(folder_.path()); });
  write_file_atomically(folder_ / "__0_0.distcp", data);
  for (const size_t keep : {size_t{0}, size_t{1}, metadata.size() / 2, metadata.size() - 1}) {
    write_file_atomically(folder_ / ".metadata", metadata.substr(0, keep));
    expect_error(".metadata", [&] { TorchDistReader reader(folder_.path()); });
  }
  write_file_atomically(folder_ / ".metadata", "cos\nsystem\n(X\4\0\0\0true" "tR.");
  expect_error("it uses os.system", [&] { TorchDistReader reader(folder_.path()); });
  write_file_atomically(folder_ / ".metadata", write_pickle(Value::dict({})));
  expect_error("wanted the Metadata", [&] { TorchDistReader reader(folder_.path()); });
  fs::remove(folder_ / ".metadata");
  expect_error("no .metadata", [&] { TorchDistReader reader(folder_.path()); });
  expect_error("no such checkpoint folder", [&] { TorchDistReader reader(folder_ / "nowhere"); });
}

TEST(Cover, OverlapsAreFoundOnEveryAxis) {
  const auto chunk = [](std::vector<int64_t> offsets, std::vector<int64_t> sizes) { return TorchDistChunk{std::move(offsets), std::move(sizes), 0, 0, 0}; };
  const TorchDistTensor good{"t", DType::u8, {4, 4}, {chunk({0, 0}, {2, 2}), chunk({0, 2}, {3, 2}), chunk({2, 0}, {2, 2}), chunk({3, 2}, {1, 2})}};
  check_cover(good, "x");
  const TorchDistTensor shifted{"t", DType::u8, {4, 4}, {chunk({0, 0}, {2, 2}), chunk({0, 2}, {3, 2}), chunk({1, 0}, {2, 2}), chunk({3, 2}, {1, 2})}};
  expect_error("overlap", [&] { check_cover(shifted, "x"); });
  const TorchDistTensor twice{"t", DType::u8, {2}, {chunk({0}, {1}), chunk({0}, {1})}};
  expect_error("overlap", [&] { check_cover(twice, "x"); });
  const TorchDistTensor scalars{"t", DType::u8, {}, {chunk({}, {})}};
  check_cover(scalars, "x");
}

}  // namespace
}  // namespace ponte
