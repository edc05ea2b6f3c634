#include "format/tfevents.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = crc_table();

template <class T>
void append_little_endian(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

// Protobuf's wire format: a key (field number and wire type), then the value.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}
void append_key(std::string& out, uint32_t field, WireType type) { append_varint(out, field << 3 | type); }
void append_message(std::string& out, uint32_t field, std::string_view content) {
  append_key(out, field, kLengthDelimited);
  append_varint(out, content.size());
  out += content;
}

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7; }
std::string event_head(int64_t step) {
  std::string event;
  append_key(event, 1, kFixed64);
  append_little_endian(event, std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  append_key(event, 2, kVarint);
  append_varint(event, static_cast<uint64_t>(step));
  return event;
}

void append_double(std::string& out, uint32_t field, double value) {
  append_key(out, field, kFixed64);
  append_little_endian(out, value);
}

// HistogramProto { double min = 1, max = 2, num = 3, sum = 4, sum_squares = 5; repeated double bucket_limit = 6, bucket = 7; }
std::string histogram_of(std::span<const double> weights) {
  double total = 0, sum = 0, squares = 0;
  std::string limits, buckets, out;
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto number = static_cast<double>(i);
    total += weights[i];
    sum += number * weights[i];
    squares += number * number * weights[i];
    append_little_endian(limits, number + 0.5);
    append_little_endian(buckets, weights[i]);
  }
  append_double(out, 1, -0.5);
  append_double(out, 2, static_cast<double>(weights.size()) - 0.5);
  append_double(out, 3, total);
  append_double(out, 4, sum);
  append_double(out, 5, squares);
  append_message(out, 6, limits);
  append_message(out, 7, buckets);
  return out;
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (unsigned char byte : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ byte) & 0xff];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return std::rotr(crc, 15) + 0xa282ead8u;
}

EventFile::EventFile(const std::filesystem::path& directory, std::optional<int64_t> first_step) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  require(!error, "{}: cannot create the folder of TensorBoard events: {}", directory, error.message());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  path_ = directory / format("events.out.tfevents.{}.{}.{}.0", seconds, host_name(), getpid());
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno(format("{}: cannot write TensorBoard events", path_));
  std::string version = event_head(0);
  append_message(version, 3, "brain.Event:2");
  write_record(version);
  if (first_step) {
    std::string start = event_head(*first_step);
    std::string session_log;  // SessionLog { SessionStatus status = 1; }, START = 1
    append_key(session_log, 1, kVarint);
    append_varint(session_log, 1);
    append_message(start, 7, session_log);
    write_record(start);
  }
}

EventFile::~EventFile() { ::close(fd_); }

void EventFile::add_scalars(int64_t step, std::span<const Scalar> scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    std::string value;  // Summary.Value { string tag = 1; float simple_value = 2; }
    append_message(value, 1, scalar.tag);
    append_key(value, 2, kFixed32);
    append_little_endian(value, static_cast<float>(scalar.value));
    append_message(summary, 1, value);
  }
  std::string event = event_head(step);
  append_message(event, 5, summary);
  write_record(event);
}

void EventFile::add_histograms(int64_t step, std::span<const NumberedWeights> histograms) {
  if (histograms.empty()) return;
  std::string summary;
  for (const NumberedWeights& histogram : histograms) {
    std::string value;  // Summary.Value { string tag = 1; HistogramProto histo = 5; }
    append_message(value, 1, histogram.tag);
    append_message(value, 5, histogram_of(histogram.weights));
    append_message(summary, 1, value);
  }
  std::string event = event_head(step);
  append_message(event, 5, summary);
  write_record(event);
}

void EventFile::write_record(std::string_view event) {
  std::string length;
  append_little_endian(length, static_cast<uint64_t>(event.size()));
  std::string record = length;
  append_little_endian(record, masked_crc32c(length));
  record += event;
  append_little_endian(record, masked_crc32c(event));
  for (size_t done = 0; done < record.size();) {
    const ssize_t n = ::write(fd_, record.data() + done, record.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(format("{}: cannot write TensorBoard events", path_));
    done += static_cast<size_t>(n);
  }
}

}  // namespace ponte
