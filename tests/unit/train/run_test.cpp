// Set-up of runs and its refusals.
#include "train/run.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "base/errors.h"
#include "train/stop_signal.h"

namespace ponte {
namespace {

Config config_of(int64_t iterations, int64_t batch, int64_t eval_interval, int64_t eval_iters) {
  Config c;
  c.train.train_iters = iterations;
  c.train.global_batch_size = batch;
  c.validation.eval_iters = eval_iters;
  c.validation.eval_interval = eval_interval;
  c.optimizer.lr = 1e-3;
  finalize(c, 1);
  return c;
}

// Megatron Bridge's get_train_valid_test_num_samples.
TEST(Run, RequestedSamples) {
  using Samples = std::array<int64_t, 3>;
  EXPECT_EQ(requested_samples(config_of(100, 8, 40, 4)), (Samples{800, 3 * 4 * 8, 4 * 8}));
  EXPECT_EQ(requested_samples(config_of(100, 8, 0, 4)), (Samples{800, 0, 4 * 8}));
  EXPECT_EQ(requested_samples(config_of(100, 8, 100, 4)), (Samples{800, 2 * 4 * 8, 4 * 8}));
  Config by_samples = config_of(100, 8, 0, 0);
  by_samples.train.train_samples = 803;
  EXPECT_EQ(requested_samples(by_samples)[0], 803);
  Config wider = config_of(100, 8, 40, 4);
  wider.validation.eval_global_batch_size = 16;
  EXPECT_EQ(requested_samples(wider)[1], 3 * 4 * 16);
}

TEST(Run, ScheduleCountsSamples) {
  Config c = config_of(100, 8, 0, 0);
  c.scheduler.lr_warmup_iters = 10;
  c.scheduler.lr_decay_style = "cosine";
  const Schedule schedule = schedule_of(c);
  EXPECT_EQ(schedule.lr_warmup_steps, 80);
  EXPECT_EQ(schedule.lr_decay_steps, 800);
  EXPECT_EQ(schedule.wd_incr_steps, 800);
  EXPECT_EQ(schedule.learning_rate(80), 1e-3);
  c.optimizer.min_lr = 1;
  EXPECT_THROW(schedule_of(c), UserError);
}

TEST(StopSignal, TheSameRequestTwiceIsOneAndALaterOneEndsAtOnce) {
  const auto stop_asked_by = [](const std::vector<int>& signals, int seconds_between) {
    const StopSignal stop(StopSignal::Handle::terminate_and_interrupt);
    for (const int number : signals) {
      if (number != signals.front()) ::sleep(static_cast<unsigned>(seconds_between));
      ::raise(number);
    }
    ::_exit(StopSignal::received() ? 0 : 1);
  };
  EXPECT_EXIT(stop_asked_by({SIGTERM, SIGTERM, SIGTERM}, 0), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(stop_asked_by({SIGTERM, SIGINT}, 3), testing::KilledBySignal(SIGINT), "");
}

TEST(StopSignal, IsRememberedAndTheOldHandlersComeBack) {
  for (const int number : {SIGTERM, SIGINT}) {
    {
      StopSignal stop(StopSignal::Handle::terminate_and_interrupt);
      EXPECT_FALSE(StopSignal::received());
      std::raise(number);
      EXPECT_TRUE(StopSignal::received());
      EXPECT_STREQ(StopSignal::name(), number == SIGINT ? "SIGINT" : "SIGTERM");
    }
    struct sigaction now {};
    sigaction(number, nullptr, &now);
    EXPECT_EQ(now.sa_handler, SIG_DFL);
    StopSignal none(StopSignal::Handle::none);
    EXPECT_FALSE(StopSignal::received());
  }
}

}  // namespace
}  // namespace ponte
