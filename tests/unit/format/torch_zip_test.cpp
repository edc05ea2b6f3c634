// Archives: every golden .pt, then a sound archive damaged in each field that matters.
#include "format/torch_zip.h"

#include "format/crc32.h"
#include "format_testing.h"

namespace ponte {
namespace {

std::string sample() {
  return write_torch_archive(Value::dict_of({{"x", Value::tensor(DType::i32, {2, 2}, std::string("aaaabbbbccccdddd"))}, {"n", Value::integer(3)}}));
}

size_t record_offset(const std::string& archive, std::string_view name) {
  for (const ZipRecord& r : read_zip(bytes_of(archive), "x"))
    if (r.name == name) return r.offset;
  ADD_FAILURE() << name;
  return 0;
}

TEST(TorchZip, GoldenTrainStates) {
  for (const char* name : {"qwen3/mcore/latest_train_state.pt", "mcore016/qwen3/mcore/latest_train_state.pt"}) {
    const Value v = load_torch_file(golden(name));
    EXPECT_EQ(v.at("step", name).as_count(name), 0);
    EXPECT_EQ(v.at("do_train", name).as_tensor(name).dtype, DType::boolean);
  }
  const Value common = load_torch_file(golden("mcore016/qwen3/mcore/iter_0000000/common.pt"));
  EXPECT_EQ(common.at("checkpoint_version", "c").as_real("c"), 3.0);
}

TEST(TorchZip, DataIsAlignedAndSurvives) {
  const std::string archive = sample();
  for (const ZipRecord& r : read_zip(bytes_of(archive), "x")) EXPECT_EQ(r.offset % 64, 0u) << r.name;
  const Value v = read_torch_archive(bytes_of(archive), "x", {}, CheckCrc::yes);
  EXPECT_EQ(v.at("x", "").as_tensor("").bytes("x").size(), 16u);
  EXPECT_EQ(v.at("n", "").as_integer(""), 3);
}

TEST(TorchZip, TensorArchivePartsAreOneArchive) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {0}, {3}, {5, 7}, {2, 1, 4}}) {
    int64_t numel = 1;
    for (const int64_t e : shape) numel *= e;
    const std::string data(static_cast<size_t>(numel * 2), 'q');
    const TensorArchive plan = plan_tensor_archive(DType::bf16, shape);
    const TensorArchiveParts parts = render_tensor_archive(DType::bf16, shape, crc32_update(0, bytes_of(data)));
    const std::string archive = parts.head + data + parts.tail;
    EXPECT_EQ(plan.data_offset, parts.head.size());
    EXPECT_EQ(plan.data_offset % 64, 0u);
    EXPECT_EQ(plan.total_bytes, archive.size());
    const Value v = read_torch_archive(bytes_of(archive), "x", {}, CheckCrc::yes);
    EXPECT_EQ(v.as_tensor("x").shape, shape);
    EXPECT_EQ(v.as_tensor("x").bytes("x").size(), data.size());
  }
}

TEST(TorchZip, SizesBeyond4GiBUseZip64) {
  const std::vector<int64_t> shape{3, 1ll << 31};  // 6 GiB of bytes
  const TensorArchive plan = plan_tensor_archive(DType::u8, shape);
  EXPECT_EQ(plan.data_bytes, 6ull << 30);
  // A sparse file stands for the data, so that offsets beyond 4 GiB are really followed.
  TemporaryFolder folder;
  const TensorArchiveParts parts = render_tensor_archive(DType::u8, shape, 0x12345678);
  OutputFile out(folder / "big.pt");
  out.write_at(0, bytes_of(parts.head));
  out.write_at(plan.data_offset + plan.data_bytes, bytes_of(parts.tail));
  const MappedFile mapped(folder / "big.pt");
  ASSERT_EQ(mapped.bytes().size(), plan.total_bytes);
  const Value v = read_torch_archive(mapped.bytes(), "big");
  EXPECT_EQ(v.as_tensor("big").shape, shape);
  EXPECT_EQ(v.as_tensor("big").bytes("big").data(), mapped.bytes().data() + plan.data_offset);
}

TEST(TorchZip, DamageIsNamed) {
  const std::string good = sample();
  const auto expect = [&](std::string_view error, auto damage) {
    std::string archive = good;
    damage(archive);
    SCOPED_TRACE(error);
    expect_error(error, [&] { read_torch_archive(bytes_of(archive), "x", {}, CheckCrc::yes); });
  };
  const size_t central = good.find("PK\1\2"), end = good.rfind("PK\5\6"), data = record_offset(good, "data/0");
  size_t data_central = good.find("archive/data/0", central) - 46;
  size_t data_header = good.rfind("PK\3\4", data);
  expect("too few", [](std::string& a) { a.resize(20); });
  expect("no end record", [](std::string& a) { a.resize(a.size() - 1); });
  expect("no end record", [](std::string& a) { a += "x"; });
  expect("does not end at", [&](std::string& a) { a[end + 16] ^= 1; });
  expect("cannot hold 65534", [&](std::string& a) { a[end + 10] = '\xfe', a[end + 11] = '\xff'; });
  expect("more than its", [&](std::string& a) { --a[end + 10]; });
  expect("zip64 end record is missing", [&](std::string& a) { a.replace(end + 16, 4, "\xff\xff\xff\xff"); });
  expect("without its zip64 sizes", [&](std::string& a) { a.replace(data_central + 24, 4, "\xff\xff\xff\xff"); });
  expect("CRC differs", [&](std::string& a) { a[data + 3] ^= 1; });
  expect("that its directory lacks", [&](std::string& a) { a[data_header + 14] ^= 1; });
  expect("has sizes 16 and 17", [&](std::string& a) { a[data_central + 24] ^= 1; });
  expect("runs into the directory", [&](std::string& a) { a[data_central + 20 + 3] = a[data_central + 24 + 3] = 1; });
  expect("'archive/data/0' and 'archive/version' overlap", [&](std::string& a) {
    for (const size_t at : {data_central + 20, data_central + 24, data_header + 18, data_header + 22}) a[at] = 80;
  });
  expect("compressed", [&](std::string& a) { a[data_central + 10] = 8; });
  expect("compressed", [&](std::string& a) { a[data_header + 8] = 8; });
  expect("encrypted", [&](std::string& a) { a[data_central + 8] |= 1; });
  expect("another name", [&](std::string& a) { a[data_header + 30 + 9] = 'X'; });
  expect("no header at byte", [&](std::string& a) { a[data_central + 42] ^= 1; });
  expect("directory entry", [&](std::string& a) { a[central] = 'X'; });
  expect("lies outside", [&](std::string& a) { a[data_header + 30] = a[data_central + 46] = 'X'; });
  expect("storage 'data/0' is missing", [&](std::string& a) { a[data_header + 30 + 13] = a[data_central + 46 + 13] = '9'; });
  expect("two zip records named", [&](std::string& a) {
    const size_t h = a.find("archive/version"), c = a.rfind("archive/version");
    a.replace(h, 15, "archive/byteord"), a.replace(c, 15, "archive/byteord");
    const size_t h2 = a.find("archive/byteorder"), c2 = a.rfind("archive/byteorder");
    a.replace(h2, 17, "archive/byteord\0r", 17), a.replace(c2, 17, "archive/byteord\0r", 17);
    a[h2 - 30 + 26] = a[c2 - 46 + 28] = 15;
    a[h2 - 30 + 28] = static_cast<char>(a[h2 - 30 + 28] + 2);  // the name's last two bytes join the extra field
    a[c2 - 46 + 30] = 2;
  });
  expect("byte order 'bittle'", [&](std::string& a) {
    const size_t at = record_offset(a, "byteorder");
    a[at] = 'b';
    const uint32_t crc = crc32_update(0, bytes_of(a).subspan(at, 6));
    a.replace(a.rfind("PK\3\4", at) + 14, 4, raw(crc)), a.replace(a.rfind("archive/byteorder") - 46 + 16, 4, raw(crc));
  });
}

TEST(TorchZip, StorageSizeMustMatch) {
  TensorValue t = Value::tensor(DType::f32, {2}, std::string(8, 'x')).as_tensor("");
  t.storage_elements = 3;  // the pickle will say 3 elements, the record has 2
  const std::string archive = write_torch_archive(Value::tensor(t));
  expect_error("has 8 bytes, wanted 12", [&] { read_torch_archive(bytes_of(archive), "x"); });
}

TEST(TorchZip, NotAnArchive) {
  TemporaryFolder folder;
  write_file_atomically(folder / "a.pt", "this is no archive at all, whatever its name says");
  expect_error("a.pt: not a zip archive", [&] { load_torch_file(folder / "a.pt"); });
  expect_error("missing.pt", [&] { load_torch_file(folder / "missing.pt"); });
}

}  // namespace
}  // namespace ponte
