#include "corpus/preprocess_state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/log.h"
#include "corpus/staged_pair.h"

namespace ponte {
namespace {

constexpr const char* kStateFile = "state.json";

}  // namespace

PreprocessFolder::PreprocessFolder(const fs::path& prefix) : path_(work_folder(prefix, "preprocess")) {
  std::error_code error;
  fs::create_directories(path_, error);
  require(!error, "cannot create {}: {}", path_, error.message());
  lock_ = ::open((path_ / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) fail_errno(format("cannot open {}", path_ / "lock"));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(lock_);
    fail("another preprocessing run is writing {} (it holds {})", prefix, path_ / "lock");
  }
}

PreprocessFolder::~PreprocessFolder() { ::close(lock_); }

void PreprocessFolder::clear() const {
  for (const auto& entry : fs::directory_iterator(path_))
    if (entry.path().filename() != "lock") fs::remove_all(entry.path());
}

PreprocessState preprocess_state_from(const Json& json, const std::string& origin) {
  const auto count = [&origin](const Json& object, const char* key) {
    const int64_t value = json_get<int64_t>(object, key, origin);
    require(value >= 0, "{}: {} is {}, a count was wanted", origin, key, value);
    return value;
  };
  PreprocessState state;
  state.place = {count(json, "file"), static_cast<uint64_t>(count(json, "offset")), count(json, "line")};
  state.documents = count(json, "documents");
  state.skipped = count(json, "skipped");
  state.blank = count(json, "blank");
  state.text_bytes = static_cast<uint64_t>(count(json, "text_bytes"));
  state.compressed_total = static_cast<uint64_t>(count(json, "compressed_total"));
  state.finished = json_get<bool>(json, "finished", origin);
  require(json.contains("parts") && json.at("parts").is_array(), "{}: no list of parts", origin);
  for (const Json& part : json.at("parts")) state.parts.push_back({count(part, "tokens"), count(part, "sequences"), count(part, "documents")});
  return state;
}

std::optional<PreprocessState> PreprocessFolder::load(const std::string& identity) {
  const fs::path file = path_ / kStateFile;
  if (!fs::exists(file)) {
    clear();
    return std::nullopt;
  }
  const Json json = read_json(file);
  const std::string origin = file.string();
  if (json_get<std::string>(json, "identity", origin) != identity) {
    log_info("an interrupted run of another job (other inputs, tokenizer or flags) lies in {}: starting afresh", path_);
    clear();
    return std::nullopt;
  }
  return preprocess_state_from(json, origin);
}

void PreprocessFolder::save(const std::string& identity, const PreprocessState& state) const {
  Json parts = Json::array();
  for (const auto& p : state.parts) parts.push_back({{"tokens", p.tokens}, {"sequences", p.sequences}, {"documents", p.documents}});
  const Json json = {{"identity", identity},          {"file", state.place.file},         {"offset", state.place.offset},
                     {"line", state.place.line},      {"documents", state.documents},     {"skipped", state.skipped},
                     {"blank", state.blank},          {"text_bytes", state.text_bytes},   {"compressed_total", state.compressed_total},
                     {"finished", state.finished},    {"parts", parts}};
  write_file_atomically(path_ / kStateFile, dump_json(json));
}

void PreprocessFolder::remove() { fs::remove_all(path_); }

}  // namespace ponte
