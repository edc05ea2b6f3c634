// The pickle machine: a stack, a memo and the opcodes of protocols 2-5. Classes become named data; a few well-known constructors (torch.Size,
// OrderedDict, _rebuild_tensor_v2, ...) become the values they stand for.
#include <array>
#include <cstring>

#include "base/checked.h"
#include "format/pickle_value.h"

namespace ponte {
namespace {

// The closed world. A trailing ".*" admits every name of a module and of its submodules; admitted names are kept as data, never looked up.
constexpr std::array<std::string_view, 51> kAdmitted{
    "torch.Size", "torch.device", "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16", "torch.int64", "torch.int32", "torch.int16",
    "torch.int8", "torch.uint8", "torch.uint16", "torch.uint32", "torch.uint64", "torch.bool", "torch.float8_e4m3fn", "torch.float8_e5m2",
    "torch.float8_e8m0fnu", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
    "torch.storage.UntypedStorage", "torch.serialization._get_layout", "torch.distributed.checkpoint.*", "megatron.*", "collections.OrderedDict",
    "collections.defaultdict", "collections.Counter", "argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.PurePosixPath",
    "pathlib.Path", "pathlib._local.PosixPath", "_codecs.encode", "numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.numeric._frombuffer",
    "numpy._core.numeric._frombuffer", "signal.Signals", "datetime.timedelta", "builtins.set", "builtins.frozenset", "builtins.bytearray", "builtins.bytes",
    "builtins.complex", "builtins.getattr"};

// Python 3.11.0 to 3.11.3 write a member of an enumeration as getattr(Class, 'NAME'). That call alone is kept, as data.
constexpr std::string_view kMemberOf = "builtins.getattr";

bool admitted(const std::string& name) {
  for (std::string_view entry : kAdmitted) {
    if (entry.ends_with(".*") ? name.starts_with(entry.substr(0, entry.size() - 1)) : name == entry) return true;
  }
  return name.starts_with("torch.") && name.ends_with("Storage") && name.find('.', 6) == std::string::npos;
}

// Code points above 0xff cannot come from bytes; `_codecs.encode(text, 'latin1')` is how protocol 2 writes bytes.
std::string latin1(const std::string& utf8, std::string_view what) {
  std::string out;
  for (size_t i = 0; i < utf8.size(); ++i) {
    const auto c = static_cast<unsigned char>(utf8[i]);
    if (c < 0x80) {
      out += utf8[i];
      continue;
    }
    require((c == 0xc2 || c == 0xc3) && i + 1 < utf8.size(), "{}: bytes written as text hold a character beyond latin1", what);
    out += static_cast<char>(((c & 3) << 6) | (static_cast<unsigned char>(utf8[++i]) & 0x3f));
  }
  return out;
}

}  // namespace

class PickleReader {
 public:
  PickleReader(std::span<const std::byte> data, std::string_view origin, const PickleReadOptions& options)
      : data_(data), origin_(origin), options_(options) {}

  Value run() {
    for (;;) {
      op_ = position_;
      const auto code = take<uint8_t>();
      if (code == '.') break;
      if (!scalar(code) && !container(code) && !memory(code) && !object(code)) stop("opcode 0x{} is not one that checkpoints use", hex(code));
    }
    if (stack_.size() != 1 || !marks_.empty()) stop("it ends with {} values on the stack, wanted 1", stack_.size());
    return pop();
  }

 private:
  using Kind = Value::Kind;
  std::span<const std::byte> data_;
  std::string_view origin_;
  const PickleReadOptions& options_;
  size_t position_ = 0, op_ = 0;
  Values stack_, memo_;
  std::vector<size_t> marks_;

  template <class... Args>
  [[noreturn]] void stop(std::string_view pattern, const Args&... args) const {
    fail("{}: pickle at byte {}: {}", origin_, op_, format(pattern, args...));
  }

  static std::string hex(uint8_t v) {
    constexpr char digits[] = "0123456789abcdef";
    return {digits[v >> 4], digits[v & 15]};
  }

  std::string_view take_bytes(uint64_t size) {
    if (size > data_.size() - position_) stop("wants {} bytes, {} are left", size, data_.size() - position_);
    const std::string_view out(reinterpret_cast<const char*>(data_.data()) + position_, size);
    position_ += size;
    return out;
  }

  template <class T>
  T take() {
    T v;
    std::memcpy(&v, take_bytes(sizeof v).data(), sizeof v);
    return v;
  }

  std::string take_line() {
    const std::string_view rest(reinterpret_cast<const char*>(data_.data()) + position_, data_.size() - position_);
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos) stop("a name without end");
    position_ += end + 1;
    return std::string(rest.substr(0, end));
  }

  void push(Value v) { stack_.push_back(std::move(v)); }

  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  [[noreturn]] void refuse(std::string_view name) const { stop("it uses {}, which is not data of a checkpoint; refused", name.substr(0, 200)); }

  // Of what leaves the stack otherwise than to be called.
  void check_data(const Value& v) const {
    if (v.kind() == Kind::global && v.type_name() == kMemberOf) refuse(kMemberOf);
  }

  Value pop() {
    if (stack_.size() <= floor()) stop("takes a value from an empty stack");
    check_data(stack_.back());
    Value v = std::move(stack_.back());
    stack_.pop_back();
    return v;
  }

  Value& top() {
    if (stack_.size() <= floor()) stop("takes a value from an empty stack");
    return stack_.back();
  }

  Values pop_mark() {
    if (marks_.empty()) stop("no mark on the stack");
    const size_t begin = marks_.back();
    marks_.pop_back();
    Values out(std::make_move_iterator(stack_.begin() + static_cast<ptrdiff_t>(begin)), std::make_move_iterator(stack_.end()));
    for (const Value& v : out) check_data(v);
    stack_.resize(begin);
    return out;
  }

  bool scalar(uint8_t code) {
    switch (code) {
      case 0x80: if (const auto v = take<uint8_t>(); v > 5) stop("protocol {}, wanted at most 5", v); return true;
      case 0x95: take<uint64_t>(); return true;  // FRAME
      case 'N': push(Value()); return true;
      case 0x88: push(Value::boolean(true)); return true;
      case 0x89: push(Value::boolean(false)); return true;
      case 'J': push(Value::integer(take<int32_t>())); return true;
      case 'K': push(Value::integer(take<uint8_t>())); return true;
      case 'M': push(Value::integer(take<uint16_t>())); return true;
      case 0x8a: push(long_integer(take_bytes(take<uint8_t>()))); return true;
      case 0x8b: push(long_integer(take_bytes(take<uint32_t>()))); return true;
      case 'G': push(Value::real(std::bit_cast<double>(__builtin_bswap64(take<uint64_t>())))); return true;
      case 'U': case 0x8c: push(Value::text(std::string(take_bytes(take<uint8_t>())))); return true;
      case 'T': case 'X': push(Value::text(std::string(take_bytes(take<uint32_t>())))); return true;
      case 0x8d: push(Value::text(std::string(take_bytes(take<uint64_t>())))); return true;
      case 'C': push(Value::bytes(std::string(take_bytes(take<uint8_t>())))); return true;
      case 'B': push(Value::bytes(std::string(take_bytes(take<uint32_t>())))); return true;
      case 0x8e: case 0x96: push(Value::bytes(std::string(take_bytes(take<uint64_t>())))); return true;
      default: return false;
    }
  }

  static Value long_integer(std::string_view digits) {
    if (digits.size() > 8) return Value::big_integer(std::string(digits));
    const bool negative = !digits.empty() && static_cast<signed char>(digits.back()) < 0;
    int64_t v = negative ? -1 : 0;
    std::memcpy(&v, digits.data(), digits.size());
    return Value::integer(v);
  }

  bool container(uint8_t code) {
    switch (code) {
      case '(': marks_.push_back(stack_.size()); return true;
      case '0': if (!marks_.empty() && stack_.size() == marks_.back()) marks_.pop_back(); else pop(); return true;
      case '1': pop_mark(); return true;
      case ')': push(Value::tuple({})); return true;
      case 't': push(Value::tuple(pop_mark())); return true;
      case 0x85: push(Value::tuple(pop_last(1))); return true;
      case 0x86: push(Value::tuple(pop_last(2))); return true;
      case 0x87: push(Value::tuple(pop_last(3))); return true;
      case ']': push(Value::list({})); return true;
      case 'l': push(Value::list(pop_mark())); return true;
      case '}': push(Value::dict({})); return true;
      case 'd': push(Value::dict(pairs(pop_mark()))); return true;
      case 0x8f: push(Value::set({})); return true;
      case 0x91: push(Value::set(pop_mark())); return true;
      case 'a': append(pop_last(1)); return true;
      case 'e': case 0x90: append(pop_mark()); return true;
      case 's': set_items(pop_last(2)); return true;
      case 'u': set_items(pop_mark()); return true;
      default: return false;
    }
  }

  // The first `called` of them are to be called.
  Values pop_last(size_t count, size_t called = 0) {
    if (stack_.size() < floor() + count) stop("takes {} values, {} are on the stack", count, stack_.size() - floor());
    Values out(std::make_move_iterator(stack_.end() - static_cast<ptrdiff_t>(count)), std::make_move_iterator(stack_.end()));
    for (size_t i = called; i < count; ++i) check_data(out[i]);
    stack_.resize(stack_.size() - count);
    return out;
  }

  ValuePairs pairs(Values flat) const {
    if (flat.size() % 2) stop("a dict from {} values", flat.size());
    ValuePairs out;
    out.reserve(flat.size() / 2);
    for (size_t i = 0; i < flat.size(); i += 2) out.emplace_back(std::move(flat[i]), std::move(flat[i + 1]));
    return out;
  }

  void append(Values values) {
    Value& target = top();
    if (target.kind() != Kind::list && target.kind() != Kind::set) stop("appends to a {}", kind_name(target.kind()));
    for (Value& v : values) {
      Value::adopt(*target.node_, v, origin_);
      target.node_->items().push_back(std::move(v));
    }
  }

  void set_items(Values flat) {
    Value& target = top();
    if (target.kind() != Kind::dict && target.kind() != Kind::object) stop("sets an item of a {}", kind_name(target.kind()));
    ValuePairs& entries = target.kind() == Kind::dict ? target.node_->entries() : target.node_->object().entries;
    for (auto& [key, value] : pairs(std::move(flat))) {
      Value::adopt(*target.node_, key, origin_);
      Value::adopt(*target.node_, value, origin_);
      entries.emplace_back(std::move(key), std::move(value));
    }
  }

  bool memory(uint8_t code) {
    switch (code) {
      case 'q': remember(take<uint8_t>()); return true;
      case 'r': remember(take<uint32_t>()); return true;
      case 0x94: remember(memo_.size()); return true;
      case 'h': push(recall(take<uint8_t>())); return true;
      case 'j': push(recall(take<uint32_t>())); return true;
      default: return false;
    }
  }

  void remember(uint64_t index) {
    constexpr uint64_t kGap = 1024;  // writers number in sequence; optimised pickles leave small gaps
    if (index > memo_.size() + kGap) stop("memo number {} after {}", index, memo_.size());
    if (index >= memo_.size()) memo_.resize(index + 1);
    memo_[index] = top();
  }

  const Value& recall(uint64_t index) const {
    if (index >= memo_.size()) stop("memo number {} was never set", index);
    return memo_[index];
  }

  bool object(uint8_t code) {
    switch (code) {
      case 'c': {
        const std::string module = take_line();
        push(global(module, take_line()));
        return true;
      }
      case 0x93: {
        Values parts = pop_last(2);
        push(global(text(parts[0]), text(parts[1])));
        return true;
      }
      case 'R': {
        Values parts = pop_last(2, 1);
        push(reduce(parts[0], parts[1]));
        return true;
      }
      case 0x81: {
        Values parts = pop_last(2);
        push(make(parts[0], parts[1], false));
        return true;
      }
      case 'b': build(pop()); return true;
      case 'Q': push(storage(pop())); return true;
      default: return false;
    }
  }

  const std::string& text(const Value& v) const {
    if (v.kind() != Kind::text) stop("found {} {}, wanted a text", kind_name(v.kind()), describe(v, 40));
    return v.node_->text();
  }

  Value global(std::string module, const std::string& name) const {
    if (module == "__builtin__") module = "builtins";  // Python 2's name, which protocol 2 keeps
    const std::string full = module + "." + name;
    if (!admitted(full)) refuse(full);
    return Value::global(module, name);
  }

  const Values& arguments(const Value& v) const {
    if (v.kind() != Kind::tuple) stop("arguments are a {}, wanted a tuple", kind_name(v.kind()));
    return v.node_->items();
  }

  Value make(const Value& type, const Value& args, bool call) const {
    if (type.kind() != Kind::global) stop("calls a {}", kind_name(type.kind()));
    const GlobalName& name = type.node_->global();
    return call ? Value::call(name.module, name.name, arguments(args)) : Value::construct(name.module, name.name, arguments(args), Value());
  }

  // getattr of a class that is admitted and of a plain name.
  void check_member(const Values& args) const {
    const bool of_class = args.size() == 2 && args[0].kind() == Kind::global && args[1].kind() == Kind::text;
    if (!of_class || args[1].node_->text().starts_with("__")) refuse(kMemberOf);
  }

  // The constructors that stand for plain values; any other admitted callable stays an object.
  Value reduce(const Value& function, const Value& args_value) {
    const std::string name = function.type_name();
    if (function.kind() != Kind::global) stop("calls {}", describe(function, 60));
    const Values& args = arguments(args_value);
    if (name == "torch.Size" && args.size() == 1) return args[0].kind() == Kind::tuple ? args[0] : Value::tuple(sequence(args[0]));
    if (name == "collections.OrderedDict" && args.empty()) return Value::dict({});
    if (name == "collections.defaultdict" && args.size() <= 1) return Value::dict({});
    if ((name == "builtins.set" || name == "builtins.frozenset") && args.size() == 1) return Value::set(sequence(args[0]));
    if (name == "builtins.bytes" && args.empty()) return Value::bytes({});
    if (name == "_codecs.encode" && args.size() == 2 && text(args[1]) == "latin1") return Value::bytes(latin1(text(args[0]), origin_));
    if (name == "torch._utils._rebuild_parameter" && !args.empty() && args[0].kind() == Kind::tensor) return args[0];
    if (name == "torch._utils._rebuild_tensor_v2") return tensor(args);
    if (name == "torch._utils._rebuild_tensor_v3") return tensor_v3(args);
    if (name == kMemberOf) check_member(args);
    return make(function, args_value, true);
  }

  const Values& sequence(const Value& v) const {
    if (v.kind() != Kind::tuple && v.kind() != Kind::list) stop("found {}, wanted a sequence", kind_name(v.kind()));
    return v.node_->items();
  }

  std::vector<int64_t> integers(const Value& v) const {
    std::vector<int64_t> out;
    for (const Value& item : sequence(v)) out.push_back(item.as_integer(origin_));
    return out;
  }

  // (storage, storage_offset, size, stride, requires_grad, backward_hooks[, metadata])
  Value tensor(const Values& args) const {
    if (args.size() < 4 || args[0].kind() != Kind::tensor) stop("a tensor from {} arguments", args.size());
    TensorValue out = args[0].node_->tensor();
    out.storage_offset = args[1].as_integer(origin_);
    out.shape = integers(args[2]);
    out.strides = integers(args[3]);
    if (out.shape.size() != out.strides.size() || out.shape.size() > 64) stop("a tensor with {} extents and {} strides", out.shape.size(), out.strides.size());
    checked_multiply(checked_numel(out.shape, origin_), dtype_bytes(out.dtype), origin_);
    return Value::tensor(std::move(out));
  }

  // As v2 over an untyped storage, with the dtype after the hooks.
  Value tensor_v3(const Values& args) const {
    if (args.size() < 7 || args[0].kind() != Kind::tensor || args[6].kind() != Kind::global) stop("a tensor (v3) from {} arguments", args.size());
    Value out = tensor(args);
    TensorValue& t = out.node_->tensor();
    t.dtype = dtype_from_torch(args[6].type_name());
    t.storage_elements = static_cast<int64_t>(t.storage.size()) / dtype_bytes(t.dtype);
    checked_multiply(checked_numel(t.shape, origin_), dtype_bytes(t.dtype), origin_);
    return out;
  }

  // ('storage', torch.FloatStorage, key, location, elements) -> a tensor value without shape, which _rebuild_tensor takes.
  Value storage(const Value& id) const {
    if (!options_.storage) stop("it refers to a storage outside the pickle");
    if (id.kind() != Kind::tuple || id.node_->items().size() < 5) stop("a persistent id {} that is not a storage", describe(id, 60));
    const Values& parts = id.node_->items();
    if (text(parts[0]) != "storage" || parts[1].kind() != Kind::global) stop("a persistent id {} that is not a storage", describe(id, 60));
    const std::string type = parts[1].type_name();
    const size_t dot = type.rfind('.');
    const DType dtype = type == "torch.storage.UntypedStorage" ? DType::u8 : dtype_from_torch_storage(type.substr(dot + 1));
    const int64_t elements = parts[4].as_integer(origin_);
    StorageReference found = options_.storage(dtype, text(parts[2]), elements);
    TensorValue out;
    out.dtype = dtype;
    out.storage_key = text(parts[2]);
    out.storage_elements = elements;
    out.storage = found.bytes;
    out.owner = std::move(found.owner);
    return Value::tensor(std::move(out));
  }

  void build(const Value& state) {
    Value& target = top();
    if (target.kind() == Kind::dict || target.kind() == Kind::tensor) return;  // attributes of an OrderedDict or a Parameter: not data
    if (target.kind() != Kind::object) stop("sets the state of a {}", kind_name(target.kind()));
    Value::adopt(*target.node_, state, origin_);
    target.node_->object().state = state;
  }
};

Value read_pickle(std::span<const std::byte> data, std::string_view origin, const PickleReadOptions& options) {
  return PickleReader(data, origin, options).run();
}

}  // namespace ponte
