// Folders of checkpoints: names, trackers, what is removed and what is left alone.
#include "checkpoint/layout.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/errors.h"

namespace ponte {
namespace {

class CheckpointFolder : public testing::Test {
 protected:
  fs::path root_ = fs::temp_directory_path() / format("ponte_layout_{}", getpid());
  void SetUp() override { fs::remove_all(root_); }
  void TearDown() override { fs::remove_all(root_); }
  void add(std::initializer_list<int64_t> iterations) {
    for (int64_t i : iterations) {
      fs::create_directories(root_ / iteration_folder_name(i));
      write_file_atomically(root_ / iteration_folder_name(i) / ".metadata", "x");
    }
  }
  void track(std::string_view text) { write_file_atomically(root_ / kLatestIteration, text); }
  std::string error_of(int64_t wanted) {
    try {
      find_checkpoint(root_, wanted);
      return "no error";
    } catch (const UserError& e) {
      return e.what();
    }
  }
};

TEST(CheckpointNames, FoldersOfIterations) {
  EXPECT_EQ(iteration_folder_name(0), "iter_0000000");
  EXPECT_EQ(iteration_folder_name(500), "iter_0000500");
  EXPECT_EQ(iteration_folder_name(12345678), "iter_12345678");
  EXPECT_EQ(iteration_of("a/iter_0000500"), 500);
  for (const char* name : {"iter_", "iter_x", "iter_-1", "iter_5x", "xiter_5", ".iter_0000005.partial-1", "iter_99999999999999999999"})
    EXPECT_EQ(iteration_of(name), std::nullopt) << name;
}

TEST_F(CheckpointFolder, FindsTheTrackedTheWantedOrItself) {
  EXPECT_FALSE(find_checkpoint(root_, 0));  // no folder at all
  add({5, 10, 15});
  EXPECT_FALSE(find_checkpoint(root_, 0));  // no tracker: a save that never finished
  track("10\n");
  EXPECT_EQ(find_checkpoint(root_, 0)->iteration, 10);
  EXPECT_EQ(find_checkpoint(root_, 5)->folder, root_ / "iter_0000005");
  EXPECT_EQ(find_checkpoint(root_ / "iter_0000015", 0)->iteration, 15);
}

TEST_F(CheckpointFolder, TakesItsOwnNewestWithoutATracker) {
  add({5, 10, 15});
  for (int64_t own : {5, 10}) {
    fs::create_directories(root_ / iteration_folder_name(own) / "ponte");
    write_file_atomically(root_ / iteration_folder_name(own) / kRunRecord, "{}");
  }
  EXPECT_EQ(find_checkpoint(root_, 0)->iteration, 10);
  track("5");
  EXPECT_EQ(find_checkpoint(root_, 0)->iteration, 5);
}

TEST_F(CheckpointFolder, SaysWhatIsWrong) {
  add({5, 10});
  track("ten");
  EXPECT_NE(error_of(0).find("\"ten\""), std::string::npos) << error_of(0);
  track("release\n");
  EXPECT_NE(error_of(0).find("checkpoint.pretrained_checkpoint=" + root_.string()), std::string::npos);
  track("20");
  EXPECT_NE(error_of(0).find("iteration 20 named by latest_checkpointed_iteration.txt is not there; found iterations [5, 10]"), std::string::npos)
      << error_of(0);
  EXPECT_NE(error_of(7).find("checkpoint.ckpt_step 7"), std::string::npos) << error_of(7);
  EXPECT_THROW(find_checkpoint(root_ / kLatestIteration, 0), UserError);  // a file
}

TEST_F(CheckpointFolder, KeepsTheNewestTheBestTheTrackedAndTheRetained) {
  struct Case {
    int64_t keep, best, retain;
    std::string tracked;
    std::vector<int64_t> left;
  };
  const Case cases[] = {{-1, -1, 0, "50", {10, 20, 30, 40, 50}}, {2, -1, 0, "50", {40, 50}}, {2, 10, 0, "50", {10, 40, 50}},
                        {1, -1, 20, "50", {20, 40, 50}},         {0, -1, 0, "50", {50}},     {9, -1, 0, "50", {10, 20, 30, 40, 50}},
                        {1, -1, 0, "20", {20, 50}}};
  for (const Case& c : cases) {
    fs::remove_all(root_);
    add({10, 20, 30, 40, 50});
    track(c.tracked);
    remove_old_checkpoints(root_, c.keep, c.best, c.retain);
    EXPECT_EQ(iterations_in(root_), c.left) << "keep " << c.keep << " best " << c.best << " retain " << c.retain;
    for (const auto& entry : fs::directory_iterator(root_)) EXPECT_NE(entry.path().filename().string().front(), '.');
  }
}

}  // namespace
}  // namespace ponte
