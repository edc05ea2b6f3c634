// Values: builders, checked access, strided views of tensors, descriptions for messages.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "format/pickle_value.h"

namespace ponte {
namespace {

std::vector<int64_t> row_major(std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(shape[i], 1);
  return strides;
}

}  // namespace

bool TensorValue::contiguous() const {
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

std::span<const std::byte> TensorValue::bytes(std::string_view what) const {
  require(contiguous(), "{}: tensor of shape {} has strides {}, wanted row-major order", what, shape, strides);
  const int64_t width = dtype_bytes(dtype);
  const int64_t size = checked_multiply(checked_numel(shape, what), width, what);
  const int64_t begin = checked_multiply(storage_offset, width, what);
  require(begin >= 0 && size <= static_cast<int64_t>(storage.size()) && begin <= static_cast<int64_t>(storage.size()) - size,
          "{}: tensor of {} bytes at byte {} leaves its storage of {} bytes", what, size, begin, storage.size());
  return storage.subspan(static_cast<size_t>(begin), static_cast<size_t>(size));
}

std::vector<std::byte> TensorValue::gather(std::string_view what) const {
  const int64_t width = dtype_bytes(dtype), numel = checked_numel(shape, what);
  int64_t last = storage_offset;  // highest element touched
  for (size_t i = 0; i < shape.size() && numel > 0; ++i) {
    require(strides[i] >= 0, "{}: negative stride {}", what, strides[i]);
    last = checked_add(last, checked_multiply(shape[i] - 1, strides[i], what), what);
  }
  const auto elements = static_cast<int64_t>(storage.size()) / width;
  require(storage_offset >= 0 && numel <= elements && (numel == 0 || last < elements),
          "{}: tensor of shape {} and strides {} at element {} leaves its storage of {} elements", what, shape, strides, storage_offset, elements);
  std::vector<std::byte> out(static_cast<size_t>(numel * width));
  std::vector<int64_t> at(shape.size(), 0);
  int64_t source = storage_offset;
  for (int64_t i = 0; i < numel; ++i) {
    std::memcpy(out.data() + i * width, storage.data() + source * width, static_cast<size_t>(width));
    for (size_t axis = shape.size(); axis-- > 0;) {
      source += strides[axis];
      if (++at[axis] < shape[axis]) break;
      source -= strides[axis] * shape[axis];
      at[axis] = 0;
    }
  }
  return out;
}

template <class Payload>
Value Value::of(Kind kind, Payload payload) {
  Value out;
  out.kind_ = kind;
  out.node_ = std::make_shared<Node>();
  if constexpr (std::is_same_v<Payload, Values>) {
    for (const Value& v : payload) adopt(*out.node_, v, "value");
  } else if constexpr (std::is_same_v<Payload, ValuePairs>) {
    for (const auto& [k, v] : payload) adopt(*out.node_, k, "value"), adopt(*out.node_, v, "value");
  } else if constexpr (std::is_same_v<Payload, std::unique_ptr<ObjectData>>) {
    for (const Value& v : payload->arguments) adopt(*out.node_, v, "value");
    adopt(*out.node_, payload->state, "value");
  }
  out.node_->payload = std::move(payload);
  return out;
}

void Value::adopt(Node& parent, const Value& child, std::string_view what) {
  if (!child.node_) return;
  child.node_->frozen = true;
  require(!parent.frozen, "{}: a value changes after it became part of another one, or contains itself", what);
  parent.depth = std::max(parent.depth, child.node_->depth + 1);
  require(parent.depth <= kMaxDepth, "{}: values nested more than {} deep", what, kMaxDepth);
}

Value Value::boolean(bool v) {
  Value out;
  out.kind_ = Kind::boolean;
  out.integer_ = v;
  return out;
}

Value Value::integer(int64_t v) {
  Value out;
  out.kind_ = Kind::integer;
  out.integer_ = v;
  return out;
}

Value Value::real(double v) {
  Value out;
  out.kind_ = Kind::real;
  out.real_ = v;
  return out;
}

Value Value::big_integer(std::string little_endian) { return of(Kind::big_integer, std::move(little_endian)); }
Value Value::text(std::string v) { return of(Kind::text, std::move(v)); }
Value Value::bytes(std::string v) { return of(Kind::bytes, std::move(v)); }
Value Value::tuple(Values v) { return of(Kind::tuple, std::move(v)); }
Value Value::list(Values v) { return of(Kind::list, std::move(v)); }
Value Value::set(Values v) { return of(Kind::set, std::move(v)); }
Value Value::dict(ValuePairs v) { return of(Kind::dict, std::move(v)); }
Value Value::tensor(TensorValue v) { return of(Kind::tensor, std::make_unique<TensorValue>(std::move(v))); }

Value Value::global(std::string module, std::string name) {
  return of(Kind::global, std::make_unique<GlobalName>(GlobalName{std::move(module), std::move(name)}));
}

Value Value::dict_of(std::vector<std::pair<std::string, Value>> v) {
  ValuePairs entries;
  entries.reserve(v.size());
  for (auto& [key, value] : v) entries.emplace_back(text(std::move(key)), std::move(value));
  return dict(std::move(entries));
}

Value Value::call(std::string module, std::string name, Values arguments, const Value& state) {
  return of(Kind::object, std::make_unique<ObjectData>(ObjectData{{std::move(module), std::move(name)}, std::move(arguments), state, {}, true}));
}

Value Value::construct(std::string module, std::string name, Values arguments, const Value& state) {
  return of(Kind::object, std::make_unique<ObjectData>(ObjectData{{std::move(module), std::move(name)}, std::move(arguments), state, {}, false}));
}

Value Value::tensor(DType dtype, std::vector<int64_t> shape, std::string bytes) {
  PONTE_ASSERT(checked_numel(shape, "tensor") * dtype_bytes(dtype) == static_cast<int64_t>(bytes.size()));
  auto owned = std::make_shared<std::string>(std::move(bytes));
  TensorValue v;
  v.dtype = dtype;
  v.strides = row_major(shape);
  v.shape = std::move(shape);
  v.storage = std::as_bytes(std::span(owned->data(), owned->size()));
  v.storage_elements = static_cast<int64_t>(v.storage.size()) / dtype_bytes(dtype);
  v.owner = owned;
  return tensor(std::move(v));
}

namespace {
template <class T>
std::string raw(T v) {
  return std::string(reinterpret_cast<const char*>(&v), sizeof v);
}
}  // namespace

Value Value::scalar(int64_t v) { return tensor(DType::i64, {}, raw(v)); }
Value Value::scalar(bool v) { return tensor(DType::boolean, {}, std::string(1, v ? '\1' : '\0')); }
Value Value::scalar_f32(float v) { return tensor(DType::f32, {}, raw(v)); }
Value Value::scalar_f64(double v) { return tensor(DType::f64, {}, raw(v)); }

std::string_view kind_name(Value::Kind kind) {
  static constexpr std::string_view names[] = {"None",  "bool", "int", "int", "float", "str",    "bytes",
                                               "tuple", "list", "set", "dict", "name",  "object", "tensor"};
  return names[static_cast<size_t>(kind)];
}

namespace {
void want(const Value& value, bool right, std::string_view wanted, std::string_view what) {
  if (!right) fail("{}: found {} {}, wanted {}", what, kind_name(value.kind()), describe(value, 60), wanted);
}

template <class T>
T load(std::span<const std::byte> bytes) {
  T v;
  std::memcpy(&v, bytes.data(), sizeof v);
  return v;
}

double element(DType dtype, std::span<const std::byte> bytes, std::string_view what) {
  switch (dtype) {
    case DType::f64: return load<double>(bytes);
    case DType::f32: return load<float>(bytes);
    case DType::f16: return f32_from_f16(load<uint16_t>(bytes));
    case DType::bf16: return f32_from_bf16(load<uint16_t>(bytes));
    case DType::i64: return static_cast<double>(load<int64_t>(bytes));
    case DType::i32: return load<int32_t>(bytes);
    case DType::i16: return load<int16_t>(bytes);
    case DType::i8: return load<int8_t>(bytes);
    case DType::u64: return static_cast<double>(load<uint64_t>(bytes));
    case DType::u32: return load<uint32_t>(bytes);
    case DType::u16: return load<uint16_t>(bytes);
    case DType::u8: case DType::boolean: return load<uint8_t>(bytes);
    default: fail("{}: a scalar of type {} is not supported", what, torch_name(dtype));
  }
}
}  // namespace

bool Value::as_boolean(std::string_view what) const {
  want(*this, kind_ == Kind::boolean, "bool", what);
  return integer_ != 0;
}

int64_t Value::as_integer(std::string_view what) const {
  want(*this, kind_ == Kind::integer, "int", what);
  return integer_;
}

double Value::as_real(std::string_view what) const {
  if (kind_ == Kind::integer) return static_cast<double>(integer_);
  want(*this, kind_ == Kind::real, "float", what);
  return real_;
}

const std::string& Value::as_text(std::string_view what) const {
  want(*this, kind_ == Kind::text, "str", what);
  return node_->text();
}

const std::string& Value::as_bytes(std::string_view what) const {
  want(*this, kind_ == Kind::bytes || kind_ == Kind::big_integer, "bytes", what);
  return node_->text();
}

const Values& Value::items(std::string_view what) const {
  want(*this, kind_ == Kind::tuple || kind_ == Kind::list || kind_ == Kind::set, "a sequence", what);
  return node_->items();
}

const ValuePairs& Value::entries(std::string_view what) const {
  want(*this, kind_ == Kind::dict, "dict", what);
  return node_->entries();
}

const TensorValue& Value::as_tensor(std::string_view what) const {
  want(*this, kind_ == Kind::tensor, "tensor", what);
  return node_->tensor();
}

double Value::as_number(std::string_view what) const {
  if (kind_ == Kind::boolean || kind_ == Kind::integer) return static_cast<double>(integer_);
  if (kind_ == Kind::real) return real_;
  const TensorValue& t = as_tensor(what);
  require(checked_numel(t.shape, what) == 1, "{}: found a tensor of shape {}, wanted one number", what, t.shape);
  return element(t.dtype, t.gather(what), what);
}

int64_t Value::as_count(std::string_view what) const {
  if (kind_ == Kind::boolean || kind_ == Kind::integer) return integer_;
  if (kind_ == Kind::tensor && node_->tensor().dtype == DType::i64 && checked_numel(node_->tensor().shape, what) == 1)
    return load<int64_t>(node_->tensor().gather(what));
  const double number = as_number(what);
  require(number == std::floor(number) && std::fabs(number) <= 9007199254740992.0, "{}: found {}, wanted a whole number", what, number);
  return static_cast<int64_t>(number);
}

const Value* Value::find(std::string_view key) const {
  if (kind_ == Kind::object) return node_->object().state.kind_ == Kind::dict ? node_->object().state.find(key) : nullptr;
  if (kind_ != Kind::dict) return nullptr;
  const ValuePairs& entries = node_->entries();
  const auto it = std::find_if(entries.rbegin(), entries.rend(), [&](const auto& entry) {
    return entry.first.kind_ == Kind::text && entry.first.node_->text() == key;
  });  // from the back: of equal keys the last one counts, as in Python
  return it == entries.rend() ? nullptr : &it->second;
}

const Value& Value::at(std::string_view key, std::string_view what) const {
  const Value* value = find(key);
  if (!value) fail("{}: no '{}' in {}", what, key, describe(*this, 80));
  return *value;
}

std::string Value::type_name() const {
  if (kind_ == Kind::global) return node_->global().module + "." + node_->global().name;
  return kind_ == Kind::object ? node_->object().type.module + "." + node_->object().type.name : std::string();
}

const Values& Value::arguments() const {
  static const Values none;
  return kind_ == Kind::object ? node_->object().arguments : none;
}

const Value& Value::state() const {
  static const Value none{};
  return kind_ == Kind::object ? node_->object().state : none;
}

bool Value::is_call() const { return kind_ == Kind::object && node_->object().is_call; }

namespace {
void describe_into(const Value& value, std::string& out, size_t limit);

void describe_list(const Values& items, std::string_view open, std::string_view close, std::string& out, size_t limit) {
  out += open;
  for (size_t i = 0; i < items.size() && out.size() <= limit; ++i) {
    if (i) out += ", ";
    describe_into(items[i], out, limit);
  }
  out += close;
}

void describe_dict(const ValuePairs& entries, std::string& out, size_t limit) {
  out += "{";
  for (size_t i = 0; i < entries.size() && out.size() <= limit; ++i) {
    if (i) out += ", ";
    describe_into(entries[i].first, out, limit);
    out += ": ";
    describe_into(entries[i].second, out, limit);
  }
  out += "}";
}

void describe_into(const Value& value, std::string& out, size_t limit) {
  using Kind = Value::Kind;
  if (out.size() > limit) return;
  switch (value.kind()) {
    case Kind::none: out += "None"; break;
    case Kind::boolean: out += value.as_boolean("") ? "True" : "False"; break;
    case Kind::integer: out += format("{}", value.as_integer("")); break;
    case Kind::real: {
      const std::string digits = format("{}", value.as_real(""));
      out += digits.find_first_of(".en") == std::string::npos ? digits + ".0" : digits;
      break;
    }
    case Kind::text: out += format("'{}'", value.as_text("").substr(0, limit + 1)); break;
    case Kind::big_integer: case Kind::bytes: out += format("<{} bytes>", value.as_bytes("").size()); break;
    case Kind::tuple: describe_list(value.items(""), "(", value.items("").size() == 1 ? ",)" : ")", out, limit); break;
    case Kind::list: describe_list(value.items(""), "[", "]", out, limit); break;
    case Kind::set: describe_list(value.items(""), "{", "}", out, limit); break;
    case Kind::dict: describe_dict(value.entries(""), out, limit); break;
    case Kind::global: out += value.type_name(); break;
    case Kind::object: describe_list(value.arguments(), value.type_name() + "(", ")", out, limit); break;
    case Kind::tensor: out += format("tensor({}, {})", torch_name(value.as_tensor("").dtype), value.as_tensor("").shape); break;
  }
}
}  // namespace

std::string describe(const Value& value, size_t max_characters) {
  std::string out;
  describe_into(value, out, max_characters);
  if (out.size() > max_characters) out = out.substr(0, max_characters) + "...";
  return out;
}

}  // namespace ponte
