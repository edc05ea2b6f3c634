// What a reader of the target sees before, during and after a staged write, what a killed writer leaves, and who may clear it away.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <set>

#include "base/errors.h"
#include "base/file.h"
#include "base/folder_lock.h"
#include "base/writer.h"

namespace ponte {
namespace {

void put(const fs::path& file, std::string_view text) { std::ofstream(file) << text; }

class Staged : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "ponte-staged-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(root_); }
  std::set<std::string> names() const {
    std::set<std::string> out;
    for (const auto& entry : fs::directory_iterator(root_)) out.insert(entry.path().filename());
    return out;
  }
  void folder(const std::string& name, const std::string& content = "x") {
    fs::create_directory(root_ / name);
    put(root_ / name / "content", content);
  }
  fs::path root_;
};

// A process that does something, says so, and then waits to be killed.
class Child {
 public:
  explicit Child(const std::function<void()>& work) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      work();
      char byte = 1;
      if (::write(ready[1], &byte, 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
  }
  ~Child() { kill(); }
  void kill_only() const { ::kill(pid_, SIGKILL); }
  void kill() {
    if (pid_ < 0) return;
    kill_only();
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

std::string tag_of(const Child& child) {
  std::ifstream in(format("/proc/{}/stat", child.pid()));
  std::string line;
  std::getline(in, line);
  const std::string start = split(line.substr(line.rfind(") ") + 2), ' ').at(19);
  return format("{}-{}-{}", split(writer_tag(), '-')[0], child.pid(), start);
}

TEST_F(Staged, AppearsWholeOnPublish) {
  StagedDirectory staged(root_ / "out", StagedDirectory::Existing::refuse);
  put(staged.path() / "a", "1");
  EXPECT_FALSE(fs::exists(root_ / "out"));
  staged.publish();
  EXPECT_EQ(read_file(root_ / "out" / "a"), "1");
  EXPECT_EQ(names(), std::set<std::string>{"out"});
}

TEST_F(Staged, LeavesNothingWithoutPublish) {
  { StagedDirectory staged(root_ / "out", StagedDirectory::Existing::refuse); }
  EXPECT_TRUE(names().empty());
}

TEST_F(Staged, ExistingTargetIsRefusedOrReplacedWhole) {
  folder("out", "old");
  EXPECT_THROW(StagedDirectory(root_ / "out", StagedDirectory::Existing::refuse), UserError);
  StagedDirectory staged(root_ / "out", StagedDirectory::Existing::replace);
  put(staged.path() / "new", "new");
  EXPECT_TRUE(fs::exists(root_ / "out" / "content"));
  staged.publish();
  EXPECT_FALSE(fs::exists(root_ / "out" / "content"));
  EXPECT_EQ(read_file(root_ / "out" / "new"), "new");
  EXPECT_EQ(names(), std::set<std::string>{"out"});
}

TEST_F(Staged, ALinkToTheTargetStaysOne) {
  fs::create_directory(root_ / "disk");
  fs::create_directory_symlink("disk/model", root_ / "link");
  for (const char* content : {"first", "second"}) {  // a link to nothing yet, then one to a folder
    StagedDirectory staged(root_ / "link", StagedDirectory::Existing::replace);
    put(staged.path() / "content", content);
    staged.publish();
    EXPECT_TRUE(fs::is_symlink(root_ / "link"));
    EXPECT_EQ(read_file(root_ / "disk" / "model" / "content"), content);
  }
  put(root_ / "disk" / "file", "old");
  fs::create_symlink("disk/file", root_ / "file");
  write_file_atomically(root_ / "file", "new");
  EXPECT_TRUE(fs::is_symlink(root_ / "file"));
  EXPECT_EQ(read_file(root_ / "disk" / "file"), "new");
  fs::create_symlink("b", root_ / "a");
  fs::create_symlink("a", root_ / "b");
  EXPECT_THROW(behind_links(root_ / "a"), UserError);
}

TEST_F(Staged, TheNextWriterRemovesWhatAKilledOneLeftAndNothingOfALiveOne) {
  const auto half = [this] {
    static StagedDirectory* staged = nullptr;
    staged = new StagedDirectory(root_ / "out", StagedDirectory::Existing::refuse);
    put(staged->path() / "half", "half");
  };
  Child first(half), second(half);
  first.kill();
  EXPECT_EQ(names().size(), 2u);
  StagedDirectory staged(root_ / "out", StagedDirectory::Existing::refuse);
  EXPECT_EQ(names(), (std::set<std::string>{".out.partial-" + tag_of(second), ".out.partial-" + writer_tag()}));
  staged.publish();
  EXPECT_TRUE(fs::is_empty(root_ / "out"));
}

TEST_F(Staged, WhoseLeftoversGo) {
  Child alive([] {}), dead([] {}), unwaited([] {});
  const std::string of_dead = tag_of(dead), of_alive = tag_of(alive), of_unwaited = tag_of(unwaited);
  dead.kill();
  unwaited.kill_only();
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(unwaited.pid()), &info, WEXITED | WNOWAIT), 0);  // dead, and still a zombie
  const std::string of_elsewhere = "00000000-1-1", of_reused = of_alive.substr(0, of_alive.rfind('-')) + "-7";
  for (const std::string& tag : {of_dead, of_unwaited, of_reused}) EXPECT_EQ(writer_state(tag), WriterState::gone) << tag;
  for (const std::string& tag : {of_alive, writer_tag()}) EXPECT_EQ(writer_state(tag), WriterState::alive) << tag;
  for (const std::string& tag : {of_elsewhere, std::string("7"), of_dead + "-1"}) EXPECT_EQ(writer_state(tag), WriterState::unknown) << tag;
  for (const std::string& tag : {of_dead, of_alive, of_unwaited, of_reused, writer_tag()}) folder(".iter.partial-" + tag);
  put(root_ / (".file.partial-" + of_dead), "x");
  put(root_ / (".file.partial-" + of_alive), "x");
  folder(".replaced.replaced-" + of_dead, "old");
  folder(".both.replaced-" + of_dead, "old");
  folder("both", "new");
  const std::string held = ".held.partial-" + of_elsewhere;
  folder(held);
  const int fd = ::open((root_ / held).c_str(), O_RDONLY);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  folder(".free.partial-" + of_elsewhere);
  const std::set<std::string> users = {".iter.partial-1", ".partial-" + of_dead, "x.partial-" + of_dead, ".iter.partial-12-x-3", "iter_0000001"};
  for (const std::string& name : users) folder(name);
  std::set<std::string> left = users;
  left.insert({"replaced", "both", held, ".file.partial-" + of_alive, ".iter.partial-" + of_alive, ".iter.partial-" + writer_tag()});
  remove_leftovers(root_, Writers::perhaps_alive);
  EXPECT_EQ(names(), left);
  EXPECT_EQ(read_file(root_ / "replaced" / "content"), "old");
  EXPECT_EQ(read_file(root_ / "both" / "content"), "new");
  remove_leftovers(root_, Writers::none_alive);
  for (const std::string& name : {held, ".file.partial-" + of_alive, ".iter.partial-" + of_alive}) left.erase(name);
  EXPECT_EQ(names(), left);
  ::close(fd);
}

TEST_F(Staged, ReplacingByTwoRenamesIsTheSameToTheReader) {
  for (const Exchange how : {Exchange::at_once, Exchange::by_two_renames}) {
    fs::remove_all(root_ / "to");
    folder("to", "old");
    folder("from", "new");
    const fs::path old = exchange_directories(root_ / "from", root_ / "to", how);
    EXPECT_EQ(read_file(root_ / "to" / "content"), "new");
    EXPECT_EQ(read_file(old / "content"), "old");
    fs::remove_all(old);
    EXPECT_EQ(names(), std::set<std::string>{"to"});
  }
  EXPECT_THROW(exchange_directories(root_ / "absent", root_ / "to", Exchange::by_two_renames), UserError);
  EXPECT_EQ(read_file(root_ / "to" / "content"), "new");  // it was moved back
}

TEST_F(Staged, ACrashBetweenTheTwoRenamesIsUndoneByTheNextWriter) {
  Child child([] {});
  const std::string tag = tag_of(child);
  child.kill();
  folder(".out.replaced-" + tag, "old");
  folder(".out.partial-" + tag, "new");
  EXPECT_THROW(StagedDirectory(root_ / "out", StagedDirectory::Existing::refuse), UserError);  // it is there again
  EXPECT_EQ(names(), std::set<std::string>{"out"});
  EXPECT_EQ(read_file(root_ / "out" / "content"), "old");
}

TEST_F(Staged, RemovalTakesTheNameAwayFirst) {
  folder("a");
  remove_at_once(root_ / "a");
  EXPECT_TRUE(names().empty());
  folder("a");
  fs::create_directory_symlink("a", root_ / "link");
  remove_at_once(root_ / "link");
  EXPECT_EQ(names(), std::set<std::string>{"a"});
}

std::string refusal(const fs::path& folder) {
  try {
    FolderLock lock(folder, "a test");
    return "no error";
  } catch (const UserError& error) {
    return error.what();
  }
}

TEST_F(Staged, OneWriterToAFolderAtATime) {
  {
    FolderLock lock(root_ / "run", "a training run");
    const std::string message = refusal(root_ / "run");
    EXPECT_NE(message.find(format("{} is being written to by a training run, process {} on ", root_ / "run", ::getpid())), std::string::npos) << message;
  }
  EXPECT_TRUE(names().empty());  // made for the lock, and still empty
  Child child([this] { new FolderLock(root_ / "run", "a training run"); });
  EXPECT_NE(refusal(root_ / "run").find(format("process {} ", child.pid())), std::string::npos);
  put(root_ / "run" / "result", "x");
  child.kill();
  EXPECT_TRUE(fs::exists(root_ / "run" / kFolderLock));
  EXPECT_EQ(refusal(root_ / "run"), "no error");  // the kernel ended it with its holder
  EXPECT_FALSE(fs::exists(root_ / "run" / kFolderLock));
  EXPECT_TRUE(fs::exists(root_ / "run" / "result"));
  put(root_ / "file", "x");
  EXPECT_NE(refusal(root_ / "file" / "run").find("cannot be made"), std::string::npos);
}

}  // namespace
}  // namespace ponte
