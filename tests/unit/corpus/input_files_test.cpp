#include "corpus/input_files.h"

#include "scratch.h"

namespace ponte {
namespace {

TEST(Patterns, MeanWhatTheHubsMean) {
  struct Case {
    const char *pattern, *name;
    bool matches;
  };
  const Case cases[] = {
      {"a.parquet", "a.parquet", true},
      {"a.parquet", "b.parquet", false},
      {"*.parquet", "a.parquet", true},
      {"*.parquet", "d/a.parquet", false},
      {"data/*/*", "data/x/y", true},
      {"data/*/*", "data/x", false},
      {"data/*/*", "data/x/y/z", false},
      {"sample/10BT/*", "sample/10BT/0.parquet", true},
      {"**", "a/b/c", true},
      {"**/*.json", "a.json", true},
      {"**/*.json", "x/y/a.json", true},
      {"**/*.json", "x/y/a.txt", false},
      {"a?c", "abc", true},
      {"a?c", "a/c", false},
      {"x/**", "x/y/z", true},
      {"x/**", "y/z", false},
      {"x/**/z", "x/z", true},
      {"x/**/z", "x/1/2/z", true},
      {"x/**/z", "x/1/2/yz", false},
      {"x-[0-9a].json", "x-7.json", true},
      {"x-[0-9a].json", "x-a.json", true},
      {"x-[0-9a].json", "x-b.json", false},
      {"x-[!0-9].json", "x-b.json", true},
      {"x-[!0-9].json", "x-3.json", false},
      {"x[!a]y", "x/y", false},
      {"x[]-]y", "x]y", true},
      {"x[]-]y", "x-y", true},
      {"x[a", "x[a", true},
      {"[", "[", true},
      {"", "", true},
      {"", "a", false},
      {"*", "", true},
      {"*a*b*", "xxaxxbxx", true},
      {"*a*b*", "xxbxxaxx", false},
  };
  for (const Case& c : cases) EXPECT_EQ(matches_pattern(c.pattern, c.name), c.matches) << c.pattern << " " << c.name;
  EXPECT_FALSE(matches_pattern(std::string(200, '*') + "b", std::string(900, 'a')));  // and it ends soon
}

constexpr const char* kCard =
    "---\nlicense: odc-by\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*/*\n  - split: test\n    "
    "path: test/*\n- config_name: sample-10BT\n"
    "  data_files:\n  - split: train\n    path: [sample/10BT/*]\n- config_name: eval\n  data_files: eval.jsonl\n---\n# A card\n";
const std::vector<std::string> kNames = {
    "README.md",      "data/b/1.parquet", "data/a/2.parquet", "data/a/notes.md", "sample/10BT/0.parquet", "sample/350BT/0.parquet",
    "test/t.parquet", "eval.jsonl"};
using Names = std::vector<std::string>;

TEST(DatasetFiles, FollowTheCard) {
  EXPECT_EQ(dataset_files("o/d", kCard, kNames, ""), (Names{"data/a/2.parquet", "data/b/1.parquet"}));
  EXPECT_EQ(dataset_files("o/d", kCard, kNames, "sample-10BT"), (Names{"sample/10BT/0.parquet"}));
  EXPECT_EQ(dataset_files("o/d", kCard, kNames, "eval"), (Names{"eval.jsonl"}));
  EXPECT_USER_ERROR(dataset_files("o/d", kCard, kNames, "sample-10B"),
                    "no subset 'sample-10B', did you mean 'sample-10BT'?; its subsets are [default, sample-10BT, eval]");
  EXPECT_EQ(dataset_files("o/d", "no front matter", {"x/a.jsonl.gz", "b.md"}, ""), (Names{"x/a.jsonl.gz"}));
  EXPECT_EQ(dataset_files("o/d", "", {"x/a.jsonl", "y/a.jsonl"}, "y"), (Names{"y/a.jsonl"}));
  EXPECT_USER_ERROR(dataset_files("o/d", "", {"b.md"}, ""), "no .parquet, .jsonl, .json or .txt files match");
  EXPECT_USER_ERROR(dataset_files("o/d", "---\nconfigs: [\n---\n", kNames, ""), "cannot be read");
  EXPECT_USER_ERROR(dataset_files("o/d", "---\nconfigs:\n- config_name: a\n- config_name: b\n---\n", kNames, ""), "--subset is needed");
  std::string windows = "---\nconfigs:\n- config_name: a\n- config_name: b\n  default: true\n  data_files: eval*\n- config_name: c\n  data_dir: test\n---\n";
  for (size_t at = 0; (at = windows.find('\n', at)) != std::string::npos; at += 2) windows.insert(at, 1, '\r');
  EXPECT_EQ(dataset_files("o/d", windows, kNames, ""), (Names{"eval.jsonl"}));
  EXPECT_EQ(dataset_files("o/d", windows, kNames, "c"), (Names{"test/t.parquet"}));
}

}  // namespace
}  // namespace ponte
