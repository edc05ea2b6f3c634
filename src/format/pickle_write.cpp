// The writer: protocol 2 with only the opcodes torch's weights_only reader accepts.
#include <cstring>
#include <unordered_map>

#include "base/errors.h"
#include "format/pickle_value.h"

namespace ponte {
namespace {

// Bytes as the characters U+0000..U+00FF in UTF-8, for `_codecs.encode(text, 'latin1')`.
std::string utf8_of_latin1(const std::string& bytes) {
  std::string out;
  out.reserve(bytes.size() * 3 / 2);
  for (const char byte : bytes) {
    const auto c = static_cast<unsigned char>(byte);
    if (c < 0x80) {
      out += byte;
    } else {
      out += static_cast<char>(0xc0 | (c >> 6));
      out += static_cast<char>(0x80 | (c & 0x3f));
    }
  }
  return out;
}

}  // namespace

class PickleWriter {
 public:
  explicit PickleWriter(const PickleWriteOptions& options) : options_(options) { out_ = "\x80\x02"; }

  std::string run(const Value& value) {
    write(value);
    out_ += '.';
    return std::move(out_);
  }

 private:
  using Kind = Value::Kind;
  const PickleWriteOptions& options_;
  std::string out_;
  std::unordered_map<std::string, uint32_t> texts_;    // "t..." texts, "g..." globals
  std::unordered_map<const void*, uint32_t> objects_;  // shared tuples and objects
  uint32_t memo_ = 0;

  template <class T>
  void raw(T v) {
    out_.append(reinterpret_cast<const char*>(&v), sizeof v);
  }

  void get(uint32_t number) {
    if (number < 256) out_ += 'h', raw(static_cast<uint8_t>(number));
    else out_ += 'j', raw(number);
  }

  uint32_t put() {
    if (memo_ < 256) out_ += 'q', raw(static_cast<uint8_t>(memo_));
    else out_ += 'r', raw(memo_);
    return memo_++;
  }

  void text(const std::string& v) {
    if (const auto it = texts_.find("t" + v); it != texts_.end()) return get(it->second);
    require(v.size() <= UINT32_MAX, "a text of {} bytes is too long for a pickle", v.size());
    out_ += 'X';
    raw(static_cast<uint32_t>(v.size()));
    out_ += v;
    texts_.emplace("t" + v, put());
  }

  void global(const std::string& module, const std::string& name) {
    const std::string shown = module == "builtins" ? "__builtin__" : module;  // the name both readers of protocol 2 know
    const std::string key = "g" + shown + "\n" + name;
    if (const auto it = texts_.find(key); it != texts_.end()) return get(it->second);
    out_ += 'c';
    out_ += shown + "\n" + name + "\n";
    texts_.emplace(key, put());
  }

  void integer(int64_t v) {
    if (v >= 0 && v < 256) {
      out_ += 'K', raw(static_cast<uint8_t>(v));
    } else if (v >= 0 && v < 65536) {
      out_ += 'M', raw(static_cast<uint16_t>(v));
    } else if (v == static_cast<int32_t>(v)) {
      out_ += 'J', raw(static_cast<int32_t>(v));
    } else {
      out_ += "\x8a\x08";
      raw(v);
    }
  }

  void real(double v) {
    out_ += 'G';
    raw(__builtin_bswap64(std::bit_cast<uint64_t>(v)));
  }

  void tuple(const Values& items) {
    if (items.empty()) {
      out_ += ')';
      return;
    }
    if (items.size() > 3) out_ += '(';
    for (const Value& v : items) write(v);
    out_ += items.size() > 3 ? 't' : static_cast<char>(0x84 + items.size());
  }

  void list(const Values& items) {
    out_ += ']';
    if (items.empty()) return;
    out_ += '(';
    for (const Value& v : items) write(v);
    out_ += 'e';
  }

  void dict(const ValuePairs& entries) {
    out_ += '}';
    set_items(entries);
  }

  void set_items(const ValuePairs& entries) {
    if (entries.empty()) return;
    out_ += '(';
    for (const auto& [key, value] : entries) write(key), write(value);
    out_ += 'u';
  }

  void object(const ObjectData& v) {
    global(v.type.module, v.type.name);
    tuple(v.arguments);
    out_ += v.is_call ? 'R' : '\x81';
    set_items(v.entries);
    if (v.state.is_none()) return;
    write(v.state);
    out_ += 'b';
  }

  void tensor(const TensorValue& v) {
    PONTE_ASSERT(options_.storage_key);
    global("torch._utils", "_rebuild_tensor_v2");
    out_ += "((";
    text("storage");
    global("torch", std::string(torch_storage_name(v.dtype)));
    text(options_.storage_key(v));
    text("cpu");
    integer(v.storage_elements);
    out_ += "tQ";
    integer(v.storage_offset);
    integers(v.shape);
    integers(v.strides);
    out_ += '\x89';
    global("collections", "OrderedDict");
    out_ += ")RtR";
  }

  void integers(const std::vector<int64_t>& values) {
    Values items;
    for (const int64_t v : values) items.push_back(Value::integer(v));
    tuple(items);
  }

  void big_integer(const std::string& digits) {
    require(digits.size() < 256, "an integer of {} bytes is too long for a pickle", digits.size());
    out_ += '\x8a';
    raw(static_cast<uint8_t>(digits.size()));
    out_ += digits;
  }

  void bytes(const std::string& v) {
    global("_codecs", "encode");
    text(utf8_of_latin1(v));
    text("latin1");
    out_ += "\x86R";
  }

  void set(const Values& items) {
    global("builtins", "set");
    list(items);
    out_ += "\x85R";
  }

  // Shared composite values are written once, so that a pickle read and written again does not grow.
  void write(const Value& v) {
    const bool memoise = v.shared() && v.kind() > Kind::text;
    if (memoise) {
      if (const auto it = objects_.find(v.identity()); it != objects_.end()) return get(it->second);
    }
    body(v);
    const bool plain = v.kind() == Kind::tuple && v.items("").empty();
    if (memoise && !plain) objects_.emplace(v.identity(), put());
  }

  void body(const Value& v) {
    switch (v.kind()) {
      case Kind::none: out_ += 'N'; break;
      case Kind::boolean: out_ += v.as_boolean("") ? '\x88' : '\x89'; break;
      case Kind::integer: integer(v.as_integer("")); break;
      case Kind::big_integer: big_integer(v.as_bytes("")); break;
      case Kind::real: real(v.as_real("")); break;
      case Kind::text: text(v.as_text("")); break;
      case Kind::bytes: bytes(v.as_bytes("")); break;
      case Kind::tuple: tuple(v.items("")); break;
      case Kind::list: list(v.items("")); break;
      case Kind::set: set(v.items("")); break;
      case Kind::dict: dict(v.entries("")); break;
      case Kind::global: global(v.node_->global().module, v.node_->global().name); break;
      case Kind::object: object(v.node_->object()); break;
      case Kind::tensor: tensor(v.as_tensor("")); break;
    }
  }
};

std::string write_pickle(const Value& value, const PickleWriteOptions& options) { return PickleWriter(options).run(value); }

}  // namespace ponte
