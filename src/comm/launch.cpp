// The launcher serves the store, so that the death of any rank can still be read there by the others.
#include "comm/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/environment.h"
#include "base/errors.h"
#include "base/log.h"
#include "comm/life.h"
#include "comm/ranks.h"

namespace ponte {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kGrace = std::chrono::seconds(12);  // for the other ranks, once one has ended badly: a few beats of Life and the words about it

std::atomic<int> received_signal{0}, received_signals{0};  // the last one; how many

class SignalWatch {
 public:
  SignalWatch() {
    received_signal = received_signals = 0;
    struct sigaction action {};
    action.sa_handler = [](int signal) {
      received_signal = signal;
      ++received_signals;
    };
    for (size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &action, &before_[i]);
  }
  ~SignalWatch() {
    for (size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  }

 private:
  static constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP};
  struct sigaction before_[std::size(kSignals)];
};

// One rank's process and the pipe its messages come through.
struct Child {
  int64_t rank = 0;
  pid_t pid = -1;
  int pipe = -1;         // -1: writes to this process's stderr itself
  std::string unfinished;  // the part of a line that has come
  std::optional<int> status;  // of waitpid, once it has ended

  bool ended_well() const { return status && WIFEXITED(*status) && WEXITSTATUS(*status) == 0; }
  std::string how() const {
    if (WIFSIGNALED(*status)) return format("was killed by signal {} ({})", WTERMSIG(*status), ::strsignal(WTERMSIG(*status)));
    return format("ended with exit status {}", WEXITSTATUS(*status));
  }
};

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

Child start(int64_t rank, Terminal terminal, std::vector<std::string> command, std::vector<std::string> environment) {
  Child child{.rank = rank};
  int ends[2] = {-1, -1};
  if (rank > 0 && ::pipe2(ends, O_CLOEXEC) != 0) fail_errno("a pipe for a rank's messages cannot be made");
  const std::vector<char*> arguments = pointers(command), variables = pointers(environment);
  const pid_t parent = ::getpid();
  child.pid = ::fork();
  if (child.pid < 0) fail_errno(format("rank {} cannot be started", rank));
  if (child.pid == 0) {  // only calls that are safe between fork and exec
    if (terminal == Terminal::launcher || rank > 0) ::setpgid(0, 0);  // a terminal's ^C reaches the launcher, which passes it on once
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    if (rank > 0) {
      ::dup2(ends[1], STDERR_FILENO);
      ::dup2(ends[1], STDOUT_FILENO);
    }
    ::execve(arguments[0], arguments.data(), variables.data());
    ::_exit(127);
  }
  if (rank > 0) {
    ::close(ends[1]);
    child.pipe = ends[0];
    ::fcntl(child.pipe, F_SETFL, O_NONBLOCK);
  }
  return child;
}

void pass_lines_on(Child& child) {
  char block[4096];
  ssize_t n = 0;
  while (child.pipe >= 0 && (n = ::read(child.pipe, block, sizeof block)) > 0) {
    child.unfinished.append(block, static_cast<size_t>(n));
    size_t end = 0;
    while ((end = child.unfinished.find('\n')) != std::string::npos) {
      log_line(format("[rank {}] {}", child.rank, child.unfinished.substr(0, end)));
      child.unfinished.erase(0, end + 1);
    }
  }
}

class Attempt {
 public:
  Attempt(const LaunchOptions& options, c10d::TCPStore& store, c10::intrusive_ptr<c10d::Store> run_store, int64_t restarts) : store_(std::move(run_store)) {
    const int64_t threads = std::max<int64_t>(1, default_threads() / options.processes);
    for (int64_t r = 0; r < options.processes; ++r) {
      std::vector<std::pair<std::string, std::string>> set = {
          {"RANK", std::to_string(r)}, {"LOCAL_RANK", std::to_string(r)}, {"WORLD_SIZE", std::to_string(options.processes)},
          {"LOCAL_WORLD_SIZE", std::to_string(options.processes)}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", std::to_string(store.getPort())},
          {"TORCHELASTIC_USE_AGENT_STORE", "True"}, {"TORCHELASTIC_RESTART_COUNT", std::to_string(restarts)}};
      if (!environment("OMP_NUM_THREADS")) set.push_back({"OMP_NUM_THREADS", std::to_string(threads)});
      children_.push_back(start(r, options.terminal, options.command, environment_with(set)));
    }
  }
  ~Attempt() {
    kill_all(SIGKILL);
    for (Child& child : children_) {
      if (!child.status) ::waitpid(child.pid, nullptr, 0);
      pass_lines_on(child);
      if (child.pipe >= 0) ::close(child.pipe);
    }
  }
  Attempt(const Attempt&) = delete;

  struct Outcome {
    int status = 0;         // exit status of the whole
    bool lost = false;      // a rank died or hung, as against all reporting an error
    std::string first;      // what ended badly first
  };

  Outcome wait() {
    Outcome out;
    auto deadline = Clock::time_point::max();  // of the others, once one has ended badly
    int passed_on = 0;
    while (std::any_of(children_.begin(), children_.end(), [](const Child& c) { return !c.status; })) {
      listen();
      if (const int count = received_signals; count != passed_on) {  // each of them: a rank ends at once at the second
        kill_all(received_signal == SIGHUP ? SIGTERM : received_signal.load());
        passed_on = count;
      }
      for (Child& child : children_)
        if (collect(child) && !child.ended_well()) note(child, out, deadline);
      if (Clock::now() > deadline) {
        for (Child& child : children_)
          if (!child.status) log_warning("rank {} did not end by itself; killing it", child.rank);
        kill_all(SIGKILL);
        out.lost = true;
        deadline = Clock::time_point::max();
      }
    }
    return out;
  }

 private:
  void listen() {
    std::vector<pollfd> polled;
    for (const Child& child : children_)
      if (child.pipe >= 0 && !child.status) polled.push_back({child.pipe, POLLIN, 0});
    ::poll(polled.data(), polled.size(), 50);
    for (Child& child : children_) pass_lines_on(child);
  }
  static bool collect(Child& child) {
    int status = 0;
    if (child.status || ::waitpid(child.pid, &status, WNOHANG) != child.pid) return false;
    child.status = status;
    return true;
  }
  void note(const Child& child, Outcome& out, Clock::time_point& deadline) {
    if (WIFSIGNALED(*child.status)) out.lost = true;
    if (WIFEXITED(*child.status) && WEXITSTATUS(*child.status) > 1) out.lost = true;
    if (!out.first.empty()) return;
    out.first = Life::record_end(*store_, child.rank, child.how());
    out.status = WIFEXITED(*child.status) ? WEXITSTATUS(*child.status) : 1;
    deadline = Clock::now() + kGrace;
  }
  void kill_all(int signal) {
    for (const Child& child : children_)
      if (!child.status) ::kill(child.pid, signal);
  }

  const c10::intrusive_ptr<c10d::Store> store_;
  std::vector<Child> children_;
};

}  // namespace

int launch_ranks(const LaunchOptions& options) {
  PONTE_ASSERT(options.processes >= 1 && !options.command.empty());
  const SignalWatch watch;
  c10d::TCPStoreOptions store_options;
  store_options.port = 0;  // any that is free
  store_options.isServer = true;
  store_options.waitWorkers = false;
  const auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", store_options);
  for (int64_t restarts = 0;; ++restarts) {
    const auto run_store = c10::make_intrusive<c10d::PrefixStore>(store_prefix(restarts), store);
    const Attempt::Outcome outcome = Attempt(options, *store, run_store, restarts).wait();
    if (outcome.status == 0) return 0;
    if (outcome.lost) log_line(format("error: {}", outcome.first));
    if (!outcome.lost || restarts == options.max_restarts || received_signal != 0) return outcome.status;
    log_warning("starting the run again ({} of at most {} restarts)", restarts + 1, options.max_restarts);
  }
}

}  // namespace ponte
