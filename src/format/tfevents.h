// TensorBoard event files: TFRecords (length, masked CRC-32C, payload, masked CRC-32C) of Event protobufs, written by hand. Source:
// tensorflow/core/lib/io/record_writer.cc, tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace ponte {

struct Scalar {
  std::string_view tag;  // "lm loss"
  double value;          // stored as fp32, as the format has it
};

// How much of something each of `weights.size()` numbered things got: bucket i holds weights[i], from i - 0.5 to i + 0.5.
struct NumberedWeights {
  std::string_view tag;  // "moe/layer_3/expert_load"
  std::span<const double> weights;
};

// CRC-32C (Castagnoli) of `bytes`, and TFRecord's masked form of it.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

class EventFile {
 public:
  // Creates <directory>/events.out.tfevents.<seconds>.<host>.<process>.0. `first_step`: the run continues here, and readers drop what an
  // earlier file of the folder holds from that step on. UserError when the folder cannot be written.
  EventFile(const std::filesystem::path& directory, std::optional<int64_t> first_step);
  EventFile(const EventFile&) = delete;
  ~EventFile();
  // All scalars of one step in one event; readers see it at once.
  void add_scalars(int64_t step, std::span<const Scalar> scalars);
  // As histograms whose horizontal axis is the number; none: nothing is written.
  void add_histograms(int64_t step, std::span<const NumberedWeights> histograms);
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_record(std::string_view event);
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace ponte
