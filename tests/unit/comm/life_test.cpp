// Ranks that go missing. Slow: whoever waits needs its time-out and some beats.
#include "process_testing.h"

namespace ponte {
namespace {

using namespace std::chrono_literals;

// However it goes missing: killed, stopped, or elsewhere.
TEST(ProcessGroup, WhoeverWaitsNamesTheRankThatIsMissing) {
  for (const int signal : {SIGKILL, SIGSTOP, 0}) {
    const auto body = [&](Ranks& ranks) {
      ranks.phase("forward");
      ranks.world().barrier();
      if (ranks.rank() == 2) {
        ranks.phase("reading data");
        std::this_thread::sleep_for(2s);  // a sign of life with this phase is in the store
        if (signal) ::raise(signal);
        while (true) ::pause();
      }
      std::string message;
      try {
        at::Tensor x = at::ones({5000});
        ranks.world().all_reduce(x, ReduceOp::sum);
      } catch (const UserError& error) {
        message = error.what();
      }
      EXPECT_NE(message.find("rank 2 "), std::string::npos) << message;
      EXPECT_NE(message.find("phase 'reading data'"), std::string::npos) << message;
      EXPECT_NE(message.find("waited in all-reduce over world ranks [0, 1, 2] (phase 'forward')"), std::string::npos) << message;
    };
    EXPECT_EQ(run_processes(3, 5s, body, 2), (std::vector<int>{0, 0, -SIGKILL}));
  }
}

}  // namespace
}  // namespace ponte
