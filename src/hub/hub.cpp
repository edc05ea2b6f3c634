// The decision what to do for a REF; the work is in cache.cpp and download.cpp.
#include "hub/hub.h"

#include <algorithm>

#include "base/environment.h"
#include "base/errors.h"
#include "base/file.h"
#include "base/log.h"
#include "hub/download.h"

namespace ponte {
namespace {

std::string read_token(const fs::path& file) {
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return "";
  std::string token = read_file(file);
  token.erase(std::remove_if(token.begin(), token.end(), [](char c) { return isspace(static_cast<unsigned char>(c)); }), token.end());
  return token;
}

bool is_name(const std::string& text) {
  if (text.empty() || text.size() > 96 || !isalnum(static_cast<unsigned char>(text.front()))) return false;
  if (text.find("..") != std::string::npos || text.find("--") != std::string::npos) return false;
  return std::all_of(text.begin(), text.end(), [](char c) { return isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.'; });
}

bool has_form_of_id(const std::string& ref) {
  const std::vector<std::string> parts = split(ref, '/');
  return !parts.empty() && parts.size() <= 2 && std::all_of(parts.begin(), parts.end(), is_name);
}

fs::path offline_snapshot(const CachedRepository& cache, const std::string& id, const std::string& revision, HubFiles files,
                          const HubSettings& settings, const std::string& why) {
  const auto snapshot = cache.snapshot(revision);
  require(snapshot.has_value(), "{} ({}): {}, and it is not in the cache {}", id, revision, why, settings.cache);
  require(is_usable(*snapshot, files), "{} ({}): {}, and the cache {} does not hold all of it", id, revision, why, settings.cache);
  return *snapshot;
}

}  // namespace

HubSettings HubSettings::from_environment() {
  HubSettings out;
  const fs::path user = environment("HOME").value_or("/tmp");
  const fs::path base = environment("XDG_CACHE_HOME") ? fs::path(*environment("XDG_CACHE_HOME")) : user / ".cache";
  const fs::path home = environment("HF_HOME") ? fs::path(*environment("HF_HOME")) : base / "huggingface";
  out.cache = environment("HF_HUB_CACHE").value_or(environment("HUGGINGFACE_HUB_CACHE").value_or((home / "hub").string()));
  out.endpoint = environment("HF_ENDPOINT").value_or("https://huggingface.co");
  while (out.endpoint.ends_with('/')) out.endpoint.pop_back();
  out.token = environment("HF_TOKEN").value_or(environment("HUGGING_FACE_HUB_TOKEN").value_or(""));
  if (out.token.empty()) out.token = read_token(environment("HF_TOKEN_PATH").value_or((home / "token").string()));
  out.offline = environment_flag("HF_HUB_OFFLINE");
  return out;
}

bool is_hub_id(const std::string& ref) { return has_form_of_id(ref) && !fs::exists(ref); }

fs::path resolve_repository(const std::string& ref, const std::string& given_revision, RepositoryKind kind, HubFiles files,
                            const HubSettings& settings) {
  if (fs::is_directory(ref)) {
    require(given_revision.empty(), "{} is a folder; a revision ({}) goes with a hub id", ref, given_revision);
    return ref;
  }
  require(!fs::exists(ref), "{} is a file; a folder or a hub id (org/name) is wanted", ref);
  require(has_form_of_id(ref), "there is no folder {}, and it does not have the form of a hub id (org/name)", ref);
  const std::string revision = given_revision.empty() ? "main" : given_revision;
  require_safe_name(revision, ref);
  const CachedRepository cache(settings.cache, ref, kind);
  if (settings.offline) return offline_snapshot(cache, ref, revision, files, settings, "HF_HUB_OFFLINE is set");
  if (const auto snapshot = cache.snapshot(revision); snapshot && !settings.refresh && is_complete(*snapshot, files)) return *snapshot;
  std::string reason;
  const auto remote = list_repository(ref, revision, kind, files, settings, reason);
  if (!remote)
    return offline_snapshot(cache, ref, revision, files, settings,
                            format("no folder of this name, and no connection to {} ({})", settings.endpoint, reason));
  require(!remote->files.empty(), "{} ({}): the repository holds none of the files that are needed", ref, revision);
  fetch_files(*remote, cache, settings);
  if (revision != remote->commit) cache.write_ref(revision, remote->commit);
  const fs::path snapshot = cache.snapshot_folder(remote->commit);
  require(files != HubFiles::model || is_complete(snapshot, files), "{} ({}): the repository has no config.json or no weights in safetensors", ref,
          revision);
  return snapshot;
}

fs::path resolve_model(const std::string& ref, const std::string& revision) {
  return resolve_repository(ref, revision, RepositoryKind::model, HubFiles::model, HubSettings::from_environment());
}

fs::path resolve_tokenizer(const std::string& ref, const std::string& revision) {
  return resolve_repository(ref, revision, RepositoryKind::model, HubFiles::tokenizer, HubSettings::from_environment());
}

}  // namespace ponte
