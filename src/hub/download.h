// Fetching blobs: resumed, checked, put in place by one rename.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "hub/cache.h"

namespace ponte {

struct RemoteFile {
  std::string name;
  std::string etag;               // SHA-256 (large files) or git blob id of the content; the blob's name
  std::optional<uint64_t> size;
};

struct RemoteRepository {
  std::string id, commit;
  RepositoryKind kind;
  std::vector<RemoteFile> files;  // wanted ones
};

// Asks the hub what `revision` is and which files it has. UserError on 401, 403, 404 and other refusals; nullopt when there is no connection,
// with the reason in `reason`.
std::optional<RemoteRepository> list_repository(const std::string& id, const std::string& revision, RepositoryKind kind, HubFiles files,
                                                const HubSettings& settings, std::string& reason);

// Makes snapshots/<commit>/ hold every file, fetching blobs that are not there.
void fetch_files(const RemoteRepository& remote, const CachedRepository& cache, const HubSettings& settings);

}  // namespace ponte
