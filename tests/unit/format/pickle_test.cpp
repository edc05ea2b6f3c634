// Opcodes by hand: what is understood, what is refused and with which words.
#include "format/pickle.h"

#include "format_testing.h"

namespace ponte {
namespace {

Value read(const std::string& pickle) { return read_pickle(bytes_of(pickle), "x"); }
std::string text_op(std::string_view text) { return "X" + raw<uint32_t>(static_cast<uint32_t>(text.size())) + std::string(text); }

TEST(Pickle, ReadsWhatPythonWrites) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"N.", "None"},
      {"\x80\x05\x88.", "True"},
      {"\x89.", "False"},
      {"K\x07.", "7"},
      {"M" + raw<uint16_t>(65535) + ".", "65535"},
      {"J" + raw<int32_t>(-5) + ".", "-5"},
      {std::string("\x8a\0.", 3), "0"},
      {"\x8a\x01\xff.", "-1"},
      {std::string("\x8a\x02\xff\0.", 5), "255"},
      {"\x8a\x08" + raw<int64_t>(INT64_MIN) + ".", "-9223372036854775808"},
      {"\x8b" + raw<uint32_t>(1) + "\x05.", "5"},
      {std::string("G\x3f\xf8\0\0\0\0\0\0.", 10), "1.5"},
      {"\x8c\x02hi.", "'hi'"},
      {text_op("hi") + ".", "'hi'"},
      {"\x8d" + raw<uint64_t>(2) + "hi.", "'hi'"},
      {"U\x02hi.", "'hi'"},
      {"C\x02hi.", "<2 bytes>"},
      // A member of an enumeration as Python 3.11.2 writes it.
      {"c__builtin__\ngetattr\ncmegatron.core\nE\n" + text_op("NAME") + "\x86R.", "builtins.getattr(megatron.core.E, 'NAME')"},
      {"B" + raw<uint32_t>(1) + "x.", "<1 bytes>"},
      {").", "()"},
      {"K\x01\x85.", "(1,)"},
      {"K\x01K\x02\x86.", "(1, 2)"},
      {"K\x01K\x02K\x03\x87.", "(1, 2, 3)"},
      {"(K\x01K\x02K\x03K\x04t.", "(1, 2, 3, 4)"},
      {"].", "[]"},
      {"]K\x01" "a.", "[1]"},
      {"](K\x01K\x02" "e.", "[1, 2]"},
      {"(K\x01l.", "[1]"},
      {"}K\x01K\x02s.", "{1: 2}"},
      {"}(K\x01K\x02K\x03K\x04u.", "{1: 2, 3: 4}"},
      {"(K\x01K\x02" "d.", "{1: 2}"},
      {"\x8f(K\x01\x90.", "{1}"},
      {"(K\x01\x91.", "{1}"},
      {"K\x01K\x02" "0.", "1"},
      {"(K\x01" "1K\x02.", "2"},
      {"\x95" + raw<uint64_t>(4) + "N.", "None"},
      {"K\x01q\x05h\x05\x86.", "(1, 1)"},
      {"K\x01r" + raw<uint32_t>(300) + "j" + raw<uint32_t>(300) + "\x86.", "(1, 1)"},
      {"K\x01\x94h" + std::string(1, '\0') + "\x86.", "(1, 1)"},
      {"ctorch\nbfloat16\n.", "torch.bfloat16"},
      {"\x8c\x05torch\x8c\x04Size\x93K\x02K\x03\x86\x85R.", "(2, 3)"},
      {"ccollections\nOrderedDict\n)R.", "{}"},
      {"ccollections\nOrderedDict\n)R}b.", "{}"},
      {"c__builtin__\nset\n]K\x01" "a\x85R.", "{1}"},
      {"c_codecs\nencode\n" + text_op("\xc3\xbf" "a") + text_op("latin1") + "\x86R.", "<2 bytes>"},
      {"cmegatron.core.enums\nModelType\nK\x01\x85R.", "megatron.core.enums.ModelType(1)"},
      {"cargparse\nNamespace\n)\x81}" + text_op("a") + "K\x01sb.", "argparse.Namespace()"},
  };
  for (const auto& [pickle, wanted] : cases) EXPECT_EQ(describe(read(pickle)), wanted);
}

TEST(Pickle, RefusesTheRest) {
  const std::string list_in_itself = "]q\x01h\x01" "a.";
  const std::string cycle_of_two = "]q\x01]q\x02h\x01" "ah\x02" "a.";  // b holds a; then a would hold b
  std::string deep;
  for (int i = 0; i < 300; ++i) deep += "]";
  for (int i = 0; i < 299; ++i) deep += "a";
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "wants 1 bytes, 0 are left"},
      {"N", "wants 1 bytes"},
      {".", "0 values on the stack"},
      {"NN.", "2 values on the stack"},
      {"(N.", "on the stack"},
      {"(.", "stack"},
      {"\x80\x06N.", "protocol 6"},
      {"X" + raw<uint32_t>(0xffffffff) + "a.", "wants 4294967295 bytes, 2 are left"},
      {"\x8d" + raw<uint64_t>(~0ull) + ".", "are left"},
      {"\x8e" + raw<uint64_t>(1ull << 50) + ".", "are left"},
      {"cos\nsystem\n.", "it uses os.system"},
      {"cposix\nsystem\n(X" + raw<uint32_t>(2) + "lstR.", "it uses posix.system"},
      {"\x8c\x08" "builtins\x8c\x04" "eval\x93.", "it uses builtins.eval"},
      {"c__builtin__\ngetattr\n.", "it uses builtins.getattr"},
      {"]c__builtin__\ngetattr\na.", "it uses builtins.getattr"},
      {"](c__builtin__\ngetattr\ne.", "it uses builtins.getattr"},
      {"c__builtin__\ngetattr\n\x85.", "it uses builtins.getattr"},
      {"c__builtin__\ngetattr\n" + text_op("x") + text_op("NAME") + "\x86R.", "it uses builtins.getattr"},
      {"c__builtin__\ngetattr\ncmegatron.core\nE\n" + text_op("__init__") + "\x86R.", "it uses builtins.getattr"},
      {"c__builtin__\ngetattr\ncmegatron.core\nE\nK\x01\x86R.", "it uses builtins.getattr"},
      {"c__builtin__\ngetattr\nc__builtin__\ngetattr\n" + text_op("NAME") + "\x86R.", "it uses builtins.getattr"},
      {"c__builtin__\ngetattr\ncmegatron.core\nE\n" + text_op("NAME") + "\x86\x81.", "it uses builtins.getattr"},
      {"c__builtin__\ngetattr\ncos\nenviron\n" + text_op("NAME") + "\x86R.", "it uses os.environ"},
      {"c__builtin__\ngetattr\ncmegatron.core\nE\n" + text_op("NAME") + "\x86R)R.", "calls "},
      {"ctorch.nn\nModule\n.", "it uses torch.nn.Module"},
      {"ctorch\nload\n.", "it uses torch.load"},
      {"ctorchStorage\nx\n.", "it uses torchStorage.x"},
      {"ctorch.evil\nxStorage\n.", "it uses torch.evil.xStorage"},
      {"cmegatronx\ny\n.", "it uses megatronx.y"},
      {"ccollections\nOrderedDict", "name without end"},
      {"K\x01)R.", "calls 1"},
      {"K\x01)\x81.", "calls a int"},
      {"ctorch\nSize\nK\x01R.", "arguments are a int"},
      {"R.", "takes 2 values, 0 are"},
      {"K\x01(\x85.", "takes 1 values, 0 are"},
      {"NK\x01" "a.", "appends to a None"},
      {"NK\x01K\x02s.", "sets an item of a None"},
      {"}(K\x01u.", "a dict from 1 values"},
      {"]Nb.", "sets the state of a list"},
      {"e.", "no mark"},
      {"h\x01.", "memo number 1 was never set"},
      {"Nr" + raw<uint32_t>(0xffffffff) + ".", "memo number 4294967295 after 0"},
      {"K\x01Q.", "refers to a storage outside"},
      {"P1\n.", "opcode 0x50"},
      {"i\nos\nsystem\n.", "opcode 0x69"},
      {"oos\nsystem\n.", "opcode 0x6f"},
      {"\x82\x01.", "opcode 0x82"},
      {"\x97.", "opcode 0x97"},
      {list_in_itself, "contains itself"},
      {cycle_of_two, "contains itself"},
      {deep + ".", "nested more than 200 deep"},
      {"c_codecs\nencode\n" + text_op("\xc4\x80") + text_op("latin1") + "\x86R.", "beyond latin1"},
  };
  for (const auto& [pickle, wanted] : cases) expect_error(wanted, [&, &p = pickle] { read(p); });
}

TEST(Pickle, WritesWhatItReads) {
  const Value shared = Value::call("torch", "device", {Value::text("cpu")});
  const std::vector<Value> values{
      Value(),
      Value::boolean(true),
      Value::integer(-129),
      Value::integer(INT64_MAX),
      Value::real(-0.5),
      Value::text("é"),
      Value::bytes(std::string("\0\xff\x80z", 4)),
      Value::tuple({Value::integer(1), Value::text("a"), Value::text("a"), Value()}),
      Value::list({Value::list({}), Value::dict({}), Value::tuple({})}),
      Value::dict_of({{"k", Value::set({Value::integer(3)})}, {"big", Value::big_integer(std::string(12, '\x11'))}}),
      Value::list({shared, shared, Value::global("torch", "bfloat16")}),
      Value::construct("argparse", "Namespace", {}, Value::dict_of({{"x", Value::integer(5)}})),
  };
  for (const Value& v : values) {
    const std::string pickle = write_pickle(v);
    EXPECT_EQ(write_pickle(read(pickle)), pickle) << describe(v);
    EXPECT_EQ(describe(read(pickle)), describe(v));
  }
  const Value namespace_value = read(write_pickle(values.back()));
  EXPECT_EQ(namespace_value.at("x", "args").as_integer("x"), 5);
  EXPECT_EQ(namespace_value.find("y"), nullptr);
}

TEST(Pickle, AccessErrorsNameTheSubject) {
  const Value v = Value::dict_of({{"a", Value::text("t")}, {"n", Value::scalar_f32(2.5f)}, {"i", Value::scalar(int64_t{7})}});
  expect_error("run: found str 't', wanted int", [&] { v.at("a", "run").as_integer("run"); });
  expect_error("run: no 'z' in {", [&] { v.at("z", "run"); });
  EXPECT_EQ(v.at("n", "").as_number(""), 2.5);
  EXPECT_EQ(v.at("i", "").as_count(""), 7);
  expect_error("wanted a whole number", [&] { v.at("n", "").as_count("n"); });
}

TEST(Pickle, LaterOfEqualKeysCounts) { EXPECT_EQ(read("}(" + text_op("a") + "K\x01" + text_op("a") + "K\x02u.").at("a", "").as_integer(""), 2); }

TEST(TensorViews, StridesAreChecked) {
  TensorValue t;
  t.dtype = DType::u8;
  const std::string data = "abcdef";
  t.storage = bytes_of(data);
  t.storage_elements = 6;
  t.shape = {2, 3};
  t.strides = {3, 1};
  EXPECT_EQ(t.bytes("t").size(), 6u);
  t.shape = {3, 2};
  t.strides = {1, 3};  // transposed
  EXPECT_FALSE(t.contiguous());
  const auto gathered = t.gather("t");
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(gathered.data()), 6), "adbecf");
  expect_error("wanted row-major", [&] { t.bytes("t"); });
  t.storage_offset = 1;
  expect_error("leaves its storage", [&] { t.gather("t"); });
  t.storage_offset = 0, t.shape = {1ll << 40}, t.strides = {0};  // an expanded view must not become an allocation
  expect_error("leaves its storage", [&] { t.gather("t"); });
  t.shape = {2}, t.strides = {-1};
  expect_error("negative stride", [&] { t.gather("t"); });
  t.shape = {2, 2}, t.strides = {INT64_MAX, 1};
  expect_error("", [&] { t.gather("t"); });
  t.shape = {7}, t.strides = {1};
  expect_error("leaves its storage", [&] { t.bytes("t"); });
  t.shape = {2}, t.storage_offset = INT64_MAX;
  expect_error("", [&] { t.bytes("t"); });
}

}  // namespace
}  // namespace ponte
