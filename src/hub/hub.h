// From a REF to a folder: a folder is itself; a hub id ("org/name" or "name") is looked up in the Hugging Face cache and downloaded when absent.
// The cache layout (blobs/, snapshots/<commit>/ of symlinks, refs/) is huggingface_hub's, so either program finds what the other fetched:
// https://huggingface.co/docs/huggingface_hub/guides/manage-cache
// Environment: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN (or the token file in HF_HOME), HF_ENDPOINT.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace ponte {

namespace fs = std::filesystem;

enum class RepositoryKind { model, dataset };

// Which files of a repository a caller needs. Pickled weights (.bin, .pt, .pth, .ckpt) are never fetched.
enum class HubFiles {
  tokenizer,  // tokenizer, chat template and config.json
  model,      // the above, every JSON file and the safetensors
  all,        // everything but pickles: data sets
};

struct HubSettings {
  fs::path cache;         // folder with models--org--name/
  std::string endpoint;   // without a trailing slash
  std::string token;      // "": none
  bool offline = false;
  bool refresh = false;          // ask the hub even where the cache holds the revision: a branch may have moved
  int attempts = 5;              // per request without progress
  double backoff_seconds = 0.5;  // before the second attempt; doubles
  static HubSettings from_environment();
};

// Throws UserError, saying what was tried: no such folder or repository (404), a gated or private one (401, 403), offline and not cached, no
// connection, a file whose size or hash is not the announced one, a full disk. An interrupted download is continued by the next call.
// `revision`: a branch, a tag or a commit; "" is "main".
fs::path resolve_repository(const std::string& ref, const std::string& revision, RepositoryKind kind, HubFiles files, const HubSettings& settings);

// The same with the environment's settings.
fs::path resolve_model(const std::string& ref, const std::string& revision = "");
fs::path resolve_tokenizer(const std::string& ref, const std::string& revision = "");

// Whether `ref` has the form of a hub id and is no existing path.
bool is_hub_id(const std::string& ref);

}  // namespace ponte
