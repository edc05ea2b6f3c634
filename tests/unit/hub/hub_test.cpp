// Names, the cache's layout, and what is decided without a network; tests/oracle/test_hub.py has the downloads.
#include "hub/hub.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/errors.h"
#include "base/file.h"
#include "base/hash.h"
#include "hub/cache.h"
#include "hub/http.h"

namespace ponte {
namespace {

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

class Cache : public ::testing::Test {
 protected:
  void SetUp() override {
    settings_.cache = fs::path(testing::TempDir()) / "hub_test";
    settings_.offline = true;
    fs::remove_all(settings_.cache);
    fs::create_directories(settings_.cache);
  }
  void TearDown() override { fs::remove_all(settings_.cache); }
  void put(const std::string& file, const std::string& content) {
    const fs::path path = settings_.cache / "models--org--name" / file;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << content;
  }
  std::string refusal(const std::string& ref, const std::string& revision = "", HubFiles files = HubFiles::model) const {
    try {
      resolve_repository(ref, revision, RepositoryKind::model, files, settings_);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  }
  HubSettings settings_;
};

TEST(Hub, FormOfIds) {
  for (const char* id : {"Qwen/Qwen3-0.6B", "gpt2", "a/b_c.d-e"}) EXPECT_TRUE(is_hub_id(id)) << id;
  for (const char* other : {"", "/", "a/b/c", "./a", "../a", "~/a", "/a/b", "a b", "a/..", "a/.b", "a--b", "a/b\n", "https://x/y", "a/", "/a"})
    EXPECT_FALSE(is_hub_id(other)) << other;
}

TEST(Hub, NamesFromTheHubStayInside) {
  for (const char* name : {"config.json", "a/b.safetensors", "..a", "a..b"}) EXPECT_NO_THROW(require_safe_name(name, "r")) << name;
  for (const std::string& name : {std::string("../x"), std::string("/etc/passwd"), std::string("a/../b"), std::string("a//b"), std::string(""),
                                  std::string("."), std::string("a\\b"), std::string("a\0b", 3), std::string(2000, 'a')})
    EXPECT_THROW(require_safe_name(name, "r"), UserError) << name;
}

TEST(Hub, WantedFiles) {
  struct Row {
    const char* file;
    bool tokenizer, model, all;
  };
  for (const Row& row :
       {Row{"config.json", true, true, true}, Row{"tokenizer.json", true, true, true}, Row{"model-00001-of-00002.safetensors", false, true, true},
        Row{"consolidated.safetensors", false, false, true}, Row{"pytorch_model.bin", false, false, false},
        Row{"training_args.pt", false, false, false}, Row{"model.safetensors.index.json", false, true, true},
        Row{"onnx/model.onnx", false, false, false}, Row{"original/config.json", false, false, true}, Row{"README.md", false, false, true},
        Row{"modeling_x.py", false, false, true}, Row{"chat_template.jinja", true, true, true}, Row{"merges.txt", true, true, true}}) {
    EXPECT_EQ(is_wanted(row.file, HubFiles::tokenizer, true), row.tokenizer) << row.file;
    EXPECT_EQ(is_wanted(row.file, HubFiles::model, true), row.model) << row.file;
    EXPECT_EQ(is_wanted(row.file, HubFiles::all, true), row.all) << row.file;
  }
  EXPECT_TRUE(is_wanted("consolidated.safetensors", HubFiles::model, false));
}

TEST(Hub, GitBlobIds) {
  const std::string text = "hello\n";  // `git hash-object`
  EXPECT_EQ(git_blob_id(std::as_bytes(std::span(text))), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_EQ(git_blob_id({}), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_EQ(url_path("a b/c%/\xc3\xbc.json"), "a%20b/c%25/%C3%BC.json");
}

TEST_F(Cache, AFolderIsItself) {
  EXPECT_EQ(resolve_repository(settings_.cache.string(), "", RepositoryKind::model, HubFiles::model, settings_), settings_.cache);
  EXPECT_NE(refusal(settings_.cache.string(), "main").find("is a folder"), std::string::npos);
  EXPECT_NE(refusal("/no/such/folder").find("does not have the form of a hub id"), std::string::npos);
  put("file", "x");
  EXPECT_NE(refusal((settings_.cache / "models--org--name/file").string()).find("is a file"), std::string::npos);
}

TEST_F(Cache, OfflineTakesACompleteSnapshot) {
  EXPECT_NE(refusal("org/name").find("HF_HUB_OFFLINE is set, and it is not in the cache"), std::string::npos);
  const std::string snapshot = std::string("snapshots/") + kCommit + "/";
  put("refs/main", kCommit);
  put(snapshot + "config.json", "{}");
  EXPECT_NE(refusal("org/name").find("does not hold all of it"), std::string::npos);
  put(snapshot + "model.safetensors.index.json", R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})");
  put(snapshot + "model-1.safetensors", "x");
  EXPECT_NE(refusal("org/name").find("does not hold all of it"), std::string::npos);
  put(snapshot + "model-2.safetensors", "x");
  const fs::path folder = settings_.cache / "models--org--name/snapshots" / kCommit;
  EXPECT_EQ(resolve_repository("org/name", "", RepositoryKind::model, HubFiles::model, settings_), folder);
  EXPECT_EQ(resolve_repository("org/name", kCommit, RepositoryKind::model, HubFiles::model, settings_), folder);
  EXPECT_NE(refusal("org/name", "v1").find("not in the cache"), std::string::npos);
  EXPECT_EQ(refusal("org/name", "", HubFiles::tokenizer), "");  // a model without a tokenizer: nothing more can be had offline
  EXPECT_FALSE(is_complete(folder, HubFiles::tokenizer));
  put(snapshot + "tokenizer.json", "{}");
  EXPECT_EQ(resolve_repository("org/name", "main", RepositoryKind::model, HubFiles::tokenizer, settings_), folder);
  EXPECT_TRUE(is_complete(folder, HubFiles::tokenizer));
  // A complete snapshot needs no connection either.
  settings_.offline = false;
  settings_.endpoint = "http://127.0.0.1:1";
  settings_.attempts = 1;
  EXPECT_EQ(resolve_repository("org/name", "", RepositoryKind::model, HubFiles::model, settings_), folder);
  EXPECT_NE(refusal("org/other").find("no connection to http://127.0.0.1:1"), std::string::npos);
}

TEST_F(Cache, DamagedRefsAreNotFollowed) {
  for (const char* ref : {"", "../../../etc", "0123", "main\n"}) {
    put("refs/main", ref);
    EXPECT_NE(refusal("org/name").find("not in the cache"), std::string::npos) << ref;
  }
  EXPECT_THROW(resolve_repository("org/name", "../x", RepositoryKind::model, HubFiles::model, settings_), UserError);
}

}  // namespace
}  // namespace ponte
