// Pickles as data. The reader is a closed world: it knows the opcodes of protocols 0-5 that torch.save and torch.distributed.checkpoint use and
// a list of classes, calls nothing, and answers everything else with an error naming module.class. Source: Python's Lib/pickletools.py.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"

namespace ponte {

class Value;
using Values = std::vector<Value>;
using ValuePairs = std::vector<std::pair<Value, Value>>;

// A tensor inside a pickle: a strided view of a storage (torch._utils._rebuild_tensor_v2).
struct TensorValue {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;      // in elements
  int64_t storage_offset = 0;        // in elements
  std::string storage_key;           // record data/<key> of the archive
  int64_t storage_elements = 0;
  std::span<const std::byte> storage;  // the storage's bytes; borrowed from, or kept alive by, owner
  std::shared_ptr<const void> owner;

  bool contiguous() const;  // row-major, whatever the storage offset
  // The elements in row-major order when contiguous(). UserError (naming `what`) otherwise, or when the view leaves its storage.
  std::span<const std::byte> bytes(std::string_view what) const;
  // The elements in row-major order in a buffer of their own, whatever the strides. Rejects views larger than their storage.
  std::vector<std::byte> gather(std::string_view what) const;
};

// A Python value: immutable, shared, acyclic, at most kMaxDepth deep.
class Value {
 public:
  enum class Kind : uint8_t { none, boolean, integer, big_integer, real, text, bytes, tuple, list, set, dict, global, object, tensor };
  static constexpr int kMaxDepth = 200;

  Value() = default;  // None
  static Value boolean(bool v);
  static Value integer(int64_t v);
  static Value big_integer(std::string little_endian);  // two's complement, more than 8 bytes
  static Value real(double v);
  static Value text(std::string v);
  static Value bytes(std::string v);
  static Value tuple(Values v);
  static Value list(Values v);
  static Value set(Values v);
  static Value dict(ValuePairs v);                                             // insertion order; OrderedDict is read as a dict
  static Value dict_of(std::vector<std::pair<std::string, Value>> v);          // text keys
  static Value global(std::string module, std::string name);                   // a class, function or constant by name, e.g. torch.bfloat16
  // An instance: `callable(*arguments)` (call) or `cls.__new__(cls, *arguments)` (construct), then its state if any.
  static Value call(std::string module, std::string name, Values arguments, const Value& state);
  static Value call(std::string module, std::string name, Values arguments) { return call(std::move(module), std::move(name), std::move(arguments), Value()); }
  static Value construct(std::string module, std::string name, Values arguments, const Value& state);
  static Value tensor(TensorValue v);
  // A contiguous tensor over bytes that it keeps.
  static Value tensor(DType dtype, std::vector<int64_t> shape, std::string bytes);
  static Value scalar(int64_t v);  // 0-dim int64 tensor
  static Value scalar(bool v);     // 0-dim bool tensor
  static Value scalar_f32(float v);
  static Value scalar_f64(double v);

  Kind kind() const { return kind_; }
  bool is_none() const { return kind_ == Kind::none; }
  // Checked access; UserError naming `what`, the kind found and the kind wanted.
  bool as_boolean(std::string_view what) const;
  int64_t as_integer(std::string_view what) const;
  double as_real(std::string_view what) const;  // an integer widens
  const std::string& as_text(std::string_view what) const;
  const std::string& as_bytes(std::string_view what) const;  // also the digits of a big_integer
  const Values& items(std::string_view what) const;          // tuple, list, set
  const ValuePairs& entries(std::string_view what) const;    // dict
  const TensorValue& as_tensor(std::string_view what) const;
  // A number from a Python int, bool or float, or from a 0-dim (or one-element) tensor of any type.
  double as_number(std::string_view what) const;
  int64_t as_count(std::string_view what) const;  // same, must be integral

  // Of a dict or of an object whose state is a dict: the value under a text key, nullptr when absent.
  const Value* find(std::string_view key) const;
  const Value& at(std::string_view key, std::string_view what) const;
  // Of a global or an object: "module.name"; "" otherwise.
  std::string type_name() const;
  const Values& arguments() const;  // of an object
  const Value& state() const;       // of an object
  bool is_call() const;             // object made by call, not construct
  const void* identity() const { return node_.get(); }  // equal for shared values; nullptr for None, booleans, integers and reals
  bool shared() const { return node_.use_count() > 1; }

  struct Node;

 private:
  Kind kind_ = Kind::none;
  union {
    int64_t integer_ = 0;  // also booleans
    double real_;
  };
  std::shared_ptr<Node> node_;  // every other kind
  template <class Payload>
  static Value of(Kind kind, Payload payload);
  static void adopt(Node& parent, const Value& child, std::string_view what);
  friend class PickleReader;
  friend class PickleWriter;
};

std::string_view kind_name(Value::Kind kind);
// One line in Python's notation, shortened; for messages and `inspect`.
std::string describe(const Value& value, size_t max_characters = 200);

// Resolves a persistent id (torch.save's storages): ('storage', torch.FloatStorage, '0', 'cpu', 12) -> storage bytes.
struct StorageReference {
  DType dtype = DType::f32;  // u8 when untyped
  std::string key;
  int64_t elements = 0;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};
using StorageResolver = std::function<StorageReference(DType dtype, const std::string& key, int64_t elements)>;

struct PickleReadOptions {
  StorageResolver storage;  // absent: a persistent id is an error
};
// Throws UserError naming `origin`, the byte position and what is wrong. Memory stays within a small multiple of data.size().
Value read_pickle(std::span<const std::byte> data, std::string_view origin, const PickleReadOptions& options = {});

// Protocol 2, texts and globals memoised: readable by pickle.load and by torch.load(weights_only=True).
struct PickleWriteOptions {
  // Key of the storage a tensor lives in; absent: a tensor is an InternalError.
  std::function<std::string(const TensorValue&)> storage_key;
};
std::string write_pickle(const Value& value, const PickleWriteOptions& options = {});

}  // namespace ponte
