// The cache on disk: links, refs, locks, and what of a repository is wanted and there.
#include "hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"

namespace ponte {
namespace {

std::string folder_name(const std::string& id, RepositoryKind kind) {
  std::string out = kind == RepositoryKind::model ? "models" : "datasets";
  for (const std::string& part : split(id, '/')) out += "--" + part;
  return out;
}

bool is_commit(const std::string& text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](char c) { return isxdigit(static_cast<unsigned char>(c)); });
}

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) { return name.ends_with(ending); });
}

bool is_pickle(const std::string& name) {
  return ends_with_any(name, {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite"});
}

bool is_tokenizer_file(const std::string& name) {
  return ends_with_any(name, {"config.json", "tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
                              "tokenizer.model", ".tiktoken", ".jinja", "chat_template.json"});
}

bool has_all_shards(const fs::path& snapshot) {
  const fs::path index = snapshot / "model.safetensors.index.json";
  if (!fs::exists(index)) return fs::exists(snapshot / "model.safetensors");
  const Json document = read_json(index);
  if (!document.is_object() || !document.contains("weight_map") || !document["weight_map"].is_object()) return false;
  for (const auto& [tensor, file] : document["weight_map"].items())
    if (!file.is_string() || !fs::exists(snapshot / file.get<std::string>())) return false;
  return true;
}

bool has_tokenizer(const fs::path& snapshot) {
  const auto exists = [&](const char* name) { return fs::exists(snapshot / name); };
  return exists("tokenizer.json") || exists("tokenizer_config.json") || exists("vocab.json") || exists("tokenizer.model");
}

}  // namespace

CachedRepository::CachedRepository(const fs::path& cache, const std::string& id, RepositoryKind kind)
    : cache_(cache), root_(cache / folder_name(id, kind)) {}

std::optional<fs::path> CachedRepository::snapshot(const std::string& revision) const {
  std::string commit = revision;
  if (!is_commit(revision)) {
    const fs::path ref = root_ / "refs" / revision;
    if (!fs::is_regular_file(ref)) return std::nullopt;
    commit = read_file(ref);
    while (!commit.empty() && isspace(static_cast<unsigned char>(commit.back()))) commit.pop_back();
    if (!is_commit(commit)) return std::nullopt;
  }
  if (!fs::is_directory(snapshot_folder(commit))) return std::nullopt;
  return snapshot_folder(commit);
}

bool CachedRepository::has_file(const std::string& commit, const std::string& file) const { return fs::exists(snapshot_folder(commit) / file); }

void CachedRepository::link(const std::string& commit, const std::string& file, const std::string& etag) const {
  const fs::path pointer = snapshot_folder(commit) / file;
  fs::create_directories(pointer.parent_path());
  const fs::path target = fs::relative(blob(etag), pointer.parent_path());
  const fs::path temporary = pointer.parent_path() / format(".{}.{}", pointer.filename(), ::getpid());
  fs::remove(temporary);
  fs::create_symlink(target, temporary);
  fs::rename(temporary, pointer);
}

void CachedRepository::write_ref(const std::string& revision, const std::string& commit) const {
  const fs::path ref = root_ / "refs" / revision;
  fs::create_directories(ref.parent_path());
  write_file_atomically(ref, commit);
}

fs::path CachedRepository::locks() const { return cache_ / ".locks" / root_.filename(); }

BlobLock::BlobLock(const fs::path& file) {
  fs::create_directories(file.parent_path());
  fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno(format("cannot open the lock {}", file));
  while (::flock(fd_, LOCK_EX) != 0)
    if (errno != EINTR) fail_errno(format("cannot lock {}", file));
}

BlobLock::~BlobLock() { ::close(fd_); }

bool is_complete(const fs::path& snapshot, HubFiles files) {
  const bool config = fs::exists(snapshot / "config.json");
  if (files == HubFiles::model) return config && has_all_shards(snapshot);
  return files == HubFiles::tokenizer && config && has_tokenizer(snapshot);
}

bool is_usable(const fs::path& snapshot, HubFiles files) {
  if (files == HubFiles::tokenizer) return has_tokenizer(snapshot) || fs::exists(snapshot / "config.json");
  return files == HubFiles::all || is_complete(snapshot, files);
}

bool is_wanted(const std::string& file, HubFiles files, bool names_model_files) {
  if (is_pickle(file)) return false;
  if (files == HubFiles::all) return true;
  const bool nested = file.find('/') != std::string::npos;
  if (nested) return file.starts_with("additional_chat_templates/") && file.ends_with(".jinja");
  if (is_tokenizer_file(file)) return true;
  if (files == HubFiles::tokenizer) return false;
  if (file.ends_with(".safetensors")) return !names_model_files || file.starts_with("model");
  return ends_with_any(file, {".json", ".txt", ".model"});
}

void require_safe_name(const std::string& file, const std::string& repository) {
  bool safe =
      !file.empty() && file.front() != '/' && file.find('\\') == std::string::npos && file.find('\0') == std::string::npos && file.size() < 1024;
  for (const std::string& part : split(file, '/')) safe = safe && !part.empty() && part != "." && part != "..";
  require(safe, "{}: the hub names a file \"{}\", which does not stay inside the repository", repository, file);
}

}  // namespace ponte
