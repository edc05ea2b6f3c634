// One blob at a time from the hub to the cache: listing, transfer with resumption, check, link.
#include "hub/download.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/errors.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "hub/http.h"

namespace ponte {
namespace {

constexpr int64_t kConnections = 4;

std::string repository_path(const std::string& id, RepositoryKind kind) { return (kind == RepositoryKind::model ? "" : "datasets/") + id; }

bool is_hexadecimal(const std::string& text, size_t size) {
  return text.size() == size &&
         std::all_of(text.begin(), text.end(), [](char c) { return isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f'); });
}

// What an answer that is not a success means to the user.
[[noreturn]] void fail_status(const std::string& what, const HttpResponse& answer, const HubSettings& settings) {
  const std::string page = settings.endpoint + "/" + what;
  const char* token = settings.token.empty() ? "no token is set (HF_TOKEN)" : "a token was sent (HF_TOKEN)";
  if (answer.status == 401) fail("{}: the hub knows no such public repository, or it is private or gated (401); {}", what, token);
  if (answer.status == 403) fail("{}: the hub refuses access (403); {}; if the model is gated, ask for access at {}", what, token, page);
  if (answer.status == 404 && answer.code == "RevisionNotFound") fail("{}: there is no such revision (404)", what);
  if (answer.status == 404) fail("{}: there is no such repository, revision or file on {} (404)", what, settings.endpoint);
  fail("{}: {} answers with status {}{}", what, settings.endpoint, answer.status, answer.body.empty() ? "" : ": " + answer.body.substr(0, 200));
}

bool is_transient(const HttpResponse& answer) {
  if (answer.hopeless || answer.stopped) return false;
  return answer.status == 0 || answer.status == 429 || answer.status >= 500 || !answer.error.empty();
}

// A machine without a network is told so soon.
int most_attempts(const HttpResponse& answer, const HubSettings& settings) {
  return answer.unreachable ? std::min(settings.attempts, 2) : settings.attempts;
}

void pause(const HubSettings& settings, int attempt) {
  std::this_thread::sleep_for(std::chrono::duration<double>(settings.backoff_seconds * static_cast<double>(1 << std::min(attempt, 4))));
}

HttpResponse request_with_retries(const HttpRequest& request, const HubSettings& settings) {
  for (int attempt = 0;; ++attempt) {
    HttpResponse answer = http_request(request);
    if (!is_transient(answer) || attempt + 1 >= most_attempts(answer, settings)) return answer;
    pause(settings, attempt);
  }
}

RemoteFile remote_file(const Json& entry, const std::string& id) {
  RemoteFile out;
  out.name = json_get<std::string>(entry, "rfilename", id);
  require_safe_name(out.name, id);
  if (entry.contains("size") && entry["size"].is_number_unsigned()) out.size = entry["size"].get<uint64_t>();
  out.etag = json_get_or<std::string>(entry, "blobId", "", id);
  if (entry.contains("lfs") && entry["lfs"].is_object()) {
    out.etag = json_get_or<std::string>(entry["lfs"], "sha256", out.etag, id);
    if (entry["lfs"].contains("size") && entry["lfs"]["size"].is_number_unsigned()) out.size = entry["lfs"]["size"].get<uint64_t>();
  }
  return out;
}

std::string file_url(const RemoteRepository& remote, const std::string& file, const HubSettings& settings) {
  return settings.endpoint + "/" + url_path(repository_path(remote.id, remote.kind)) + "/resolve/" + remote.commit + "/" + url_path(file);
}

// Mirrors that list names only: the file's own headers say the rest.
void complete_listing(RemoteRepository& remote, const HubSettings& settings) {
  for (RemoteFile& file : remote.files) {
    if (is_hexadecimal(file.etag, 64) || is_hexadecimal(file.etag, 40)) continue;
    HttpRequest request;
    request.url = file_url(remote, file.name, settings);
    request.token = settings.token;
    request.head = true;
    const HttpResponse answer = request_with_retries(request, settings);
    if (answer.status != 200) fail_status(remote.id + "/" + file.name, answer, settings);
    file.etag = answer.etag;
    if (!file.size) file.size = answer.size;
    const bool usable = !file.etag.empty() && file.etag.size() <= 128 &&
                        std::all_of(file.etag.begin(), file.etag.end(), [](char c) { return isalnum(static_cast<unsigned char>(c)) || c == '-'; });
    require(usable, "{}/{}: the hub gives no usable ETag (\"{}\")", remote.id, file.name, file.etag);
  }
}

// A partly fetched blob on disk.
class PartialBlob {
 public:
  explicit PartialBlob(const fs::path& file) : path_(file) {
    fd_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail_errno(format("cannot write {}", file));
    size_ = static_cast<uint64_t>(::lseek(fd_, 0, SEEK_END));
  }
  ~PartialBlob() {
    if (fd_ >= 0) ::close(fd_);
  }
  PartialBlob(const PartialBlob&) = delete;
  uint64_t size() const { return size_; }
  // False when the disk refuses; `error` holds errno.
  bool append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return error = errno, false;
      size_ += static_cast<uint64_t>(written);
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return true;
  }
  void restart() {
    if (::ftruncate(fd_, 0) != 0) fail_errno(format("cannot empty {}", path_));
    size_ = 0;
  }
  void flush() {
    if (::fsync(fd_) != 0) fail_errno(format("cannot write {}", path_));
  }
  int error = 0;

 private:
  fs::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

class Fetch {
 public:
  Fetch(const RemoteRepository& remote, const CachedRepository& cache, const HubSettings& settings, Progress& progress)
      : remote_(remote), cache_(cache), settings_(settings), progress_(progress) {}

  void file(const RemoteFile& file) {
    const fs::path blob = cache_.blob(file.etag);
    if (!fs::exists(blob)) {
      const BlobLock lock(cache_.locks() / (file.etag + ".lock"));
      if (!fs::exists(blob)) fetch(file, blob);  // another program may have been first
      else progress_.already_done(file.size.value_or(0));
    } else {
      progress_.already_done(file.size.value_or(0));
    }
    cache_.link(remote_.commit, file.name, file.etag);
  }

 private:
  void fetch(const RemoteFile& file, const fs::path& blob) {
    fs::create_directories(blob.parent_path());
    const fs::path part = blob.string() + ".incomplete";
    PartialBlob partial(part);
    if (file.size && partial.size() > *file.size) partial.restart();
    progress_.already_done(partial.size());
    if (!file.size || partial.size() < *file.size) transfer(file, partial);
    partial.flush();
    check(file, part);
    fs::rename(part, blob);
    fsync_directory(blob.parent_path());
  }

  // Attempts that bring bytes start the count anew: a bad line makes a long download slow, not endless or lost.
  void transfer(const RemoteFile& file, PartialBlob& partial) {
    HttpResponse answer;
    for (int attempt = 0; attempt < settings_.attempts; ++attempt) {
      const uint64_t before = partial.size();
      answer = request(file, partial);
      if (partial.error) {
        errno = partial.error;
        fail_errno(format("cannot write {} while fetching {}/{}", cache_.root(), remote_.id, file.name));
      }
      if (answer.status == 416) {  // nothing after what we have: it is not the same file any more
        partial.restart();
        continue;
      }
      const bool whole = answer.error.empty() && (answer.status == 200 || answer.status == 206) && (!file.size || partial.size() >= *file.size);
      if (whole) return;
      const bool refused = answer.status >= 300 && !is_transient(answer);
      if (refused && answer.error.empty()) fail_status(remote_.id + "/" + file.name, answer, settings_);
      if (answer.stopped || answer.hopeless || attempt + 1 >= most_attempts(answer, settings_)) break;
      if (partial.size() > before) attempt = -1;
      else pause(settings_, attempt);
    }
    fail("{}/{}: {} of {} bytes arrived, then {}; the next call goes on from there", remote_.id, file.name, partial.size(),
         file.size ? std::to_string(*file.size) : "an unknown number of", answer.error.empty() ? format("status {}", answer.status) : answer.error);
  }

  HttpResponse request(const RemoteFile& file, PartialBlob& partial) {
    HttpRequest request;
    request.url = file_url(remote_, file.name, settings_);
    request.token = settings_.token;
    request.from = partial.size();
    bool first = true;
    request.sink = [&](int status, std::span<const std::byte> bytes) {
      if (first && status == 200 && partial.size() > 0) partial.restart();  // the server does not resume
      first = false;
      if (file.size && partial.size() + bytes.size() > *file.size) return false;
      if (!partial.append(bytes)) return false;
      progress_.advance(bytes.size());
      return true;
    };
    return http_request(request);
  }

  void check(const RemoteFile& file, const fs::path& part) {
    const MappedFile content(part);
    if (file.size && content.bytes().size() != *file.size) {
      fs::remove(part);
      fail("{}/{}: {} bytes arrived, the hub announced {}; nothing of it was kept", remote_.id, file.name, content.bytes().size(), *file.size);
    }
    const std::string hash = is_hexadecimal(file.etag, 64)   ? sha256(content.bytes())
                             : is_hexadecimal(file.etag, 40) ? git_blob_id(content.bytes())
                                                             : file.etag;
    if (hash == file.etag) return;
    fs::remove(part);
    fail("{}/{}: the content's hash is {}, the hub announced {}; nothing of it was kept", remote_.id, file.name, hash, file.etag);
  }

  const RemoteRepository& remote_;
  const CachedRepository& cache_;
  const HubSettings& settings_;
  Progress& progress_;
};

uint64_t total_bytes(const RemoteRepository& remote) {
  uint64_t total = 0;
  for (const RemoteFile& file : remote.files) total += file.size.value_or(0);
  return total;
}

// Before the work, not in the middle of it.
void require_room(const RemoteRepository& remote, const CachedRepository& cache) {
  uint64_t missing = 0;
  for (const RemoteFile& file : remote.files)
    if (!fs::exists(cache.blob(file.etag))) missing += file.size.value_or(0);
  fs::create_directories(cache.root());
  const uint64_t room = fs::space(cache.root()).available;
  require(room >= missing, "{}: {} are needed in {}, {} are free", remote.id, human_bytes(missing), cache.root(), human_bytes(room));
}

}  // namespace

std::optional<RemoteRepository> list_repository(const std::string& id, const std::string& revision, RepositoryKind kind, HubFiles files,
                                                const HubSettings& settings, std::string& reason) {
  HttpRequest request;
  const std::string section = kind == RepositoryKind::model ? "models" : "datasets";
  request.url = settings.endpoint + "/api/" + section + "/" + url_path(id) + "/revision/" + url_path(revision) + "?blobs=true";
  request.token = settings.token;
  const HttpResponse answer = request_with_retries(request, settings);
  if (answer.status == 0) {
    reason = answer.error;
    return std::nullopt;
  }
  if (answer.status != 200) fail_status(repository_path(id, kind), answer, settings);
  require(answer.error.empty(), "{}: the answer of {} broke off: {}", id, settings.endpoint, answer.error);
  const Json info = parse_json(answer.body, "the hub's answer for " + id);
  require(info.is_object(), "{}: the hub's answer is not an object", id);
  RemoteRepository out{id, json_get<std::string>(info, "sha", id), kind, {}};
  require(is_hexadecimal(out.commit, 40), "{}: the hub names \"{}\" as commit", id, out.commit);
  std::vector<RemoteFile> all;
  require(info.contains("siblings") && info["siblings"].is_array(), "{}: the hub lists no files", id);
  for (const Json& entry : info["siblings"]) all.push_back(remote_file(entry, id));
  const bool names_model_files =
      std::any_of(all.begin(), all.end(), [](const RemoteFile& f) { return f.name.starts_with("model") && f.name.ends_with(".safetensors"); });
  for (RemoteFile& file : all)
    if (is_wanted(file.name, files, names_model_files)) out.files.push_back(std::move(file));
  complete_listing(out, settings);
  return out;
}

void fetch_files(const RemoteRepository& remote, const CachedRepository& cache, const HubSettings& settings) {
  require_room(remote, cache);
  fs::create_directories(cache.snapshot_folder(remote.commit));
  Progress progress("fetching " + remote.id, total_bytes(remote), Progress::Unit::bytes);
  Fetch fetch(remote, cache, settings, progress);
  parallel_for(static_cast<int64_t>(remote.files.size()), kConnections, [&](int64_t i) { fetch.file(remote.files[static_cast<size_t>(i)]); });
  progress.finish();
}

}  // namespace ponte
