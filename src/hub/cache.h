// The folders of the Hugging Face cache for one repository.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "hub/hub.h"

namespace ponte {

// <cache>/models--org--name with blobs/<etag>, snapshots/<commit>/<file> -> ../../blobs/<etag>, refs/<revision> holding a commit.
class CachedRepository {
 public:
  CachedRepository(const fs::path& cache, const std::string& id, RepositoryKind kind);

  // The folder of a revision that was fetched before: of the commit it names, or that refs/ names for it.
  std::optional<fs::path> snapshot(const std::string& revision) const;
  fs::path snapshot_folder(const std::string& commit) const { return root_ / "snapshots" / commit; }
  fs::path blob(const std::string& etag) const { return root_ / "blobs" / etag; }
  bool has_file(const std::string& commit, const std::string& file) const;

  // snapshots/<commit>/<file> -> the blob, replacing what is there.
  void link(const std::string& commit, const std::string& file, const std::string& etag) const;
  void write_ref(const std::string& revision, const std::string& commit) const;
  const fs::path& root() const { return root_; }
  fs::path locks() const;  // folder of the lock files huggingface_hub uses too

 private:
  fs::path cache_, root_;
};

// A lock held as huggingface_hub holds it (flock), so that two programs do not fetch the same blob. Waits.
class BlobLock {
 public:
  explicit BlobLock(const fs::path& file);
  ~BlobLock();
  BlobLock(const BlobLock&) = delete;

 private:
  int fd_ = -1;
};

// Whether a snapshot holds what `files` asks for, as far as its own index tells.
bool is_complete(const fs::path& snapshot, HubFiles files);
// The same where nothing more can be had: a data set as it is, a model without a tokenizer, a tokenizer without a model.
bool is_usable(const fs::path& snapshot, HubFiles files);

// Whether a file of a repository is wanted. `names_model_files`: the repository has files called model*.safetensors.
bool is_wanted(const std::string& file, HubFiles files, bool names_model_files);

// A file name from the hub that stays inside its folder; UserError otherwise.
void require_safe_name(const std::string& file, const std::string& repository);

}  // namespace ponte
