// Every value of tests/golden/schedule was computed by megatron-core; ours must be the same double up to the last rounding of cos and pow.
#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"

namespace ponte {
namespace {

Schedule schedule_from(const Json& a) {
  const auto text = [&](const char* key) { return a.at(key).is_null() ? std::string() : a.at(key).get<std::string>(); };
  Schedule s{.init_lr = a.at("init_lr"), .max_lr = a.at("max_lr"), .min_lr = a.at("min_lr"), .lr_warmup_steps = a.at("lr_warmup_steps"),
             .lr_decay_steps = a.at("lr_decay_steps"), .lr_decay_style = text("lr_decay_style"),
             .wsd_decay_steps = a.at("wsd_decay_steps").is_null() ? 0 : a.at("wsd_decay_steps").get<int64_t>(),
             .lr_wsd_decay_style = text("lr_wsd_decay_style"), .start_wd = a.at("start_wd"), .end_wd = a.at("end_wd"),
             .wd_incr_steps = a.at("wd_incr_steps"), .wd_incr_style = text("wd_incr_style")};
  return s;
}

TEST(Schedule, EqualsMegatronCore) {
  const Json golden = read_json(std::filesystem::path(PONTE_SOURCE_DIR) / "tests/golden/schedule/schedules.json");
  ASSERT_GE(golden.at("schedules").size(), 15u);
  for (const Json& row : golden.at("schedules")) {
    const Schedule schedule = schedule_from(row.at("arguments"));
    schedule.validate();
    for (const Json& e : row.at("expected")) {
      const int64_t steps = e[0];
      const double lr = e[1], wd = e[2];
      EXPECT_NEAR(schedule.learning_rate(steps), lr, 1e-15 * lr) << row.at("arguments").dump() << " at " << steps;
      EXPECT_NEAR(schedule.weight_decay(steps), wd, 1e-15 * wd) << row.at("arguments").dump() << " at " << steps;
    }
  }
}

TEST(Schedule, RefusesContradictions) {
  const Schedule good{.max_lr = 1e-3, .min_lr = 1e-4, .lr_warmup_steps = 10, .lr_decay_steps = 100, .start_wd = 0.1, .end_wd = 0.1, .wd_incr_steps = 100};
  good.validate();
  struct Case {
    void (*spoil)(Schedule&);
    const char* names;
  };
  const Case cases[] = {
      {[](Schedule& s) { s.min_lr = -1; }, "optimizer.min_lr"},
      {[](Schedule& s) { s.min_lr = 1; }, "optimizer.lr"},
      {[](Schedule& s) { s.init_lr = 1; }, "scheduler.lr_warmup_init"},
      {[](Schedule& s) { s.lr_warmup_steps = 100; }, "warm-up"},
      {[](Schedule& s) { s.lr_decay_steps = 0; }, "train.train_iters"},
      {[](Schedule& s) { s.lr_decay_style = "cosin"; }, "scheduler.lr_decay_style is \"cosin\""},
      {[](Schedule& s) { s.lr_decay_style = "WSD"; }, "scheduler.lr_wsd_decay_iters"},
      {[](Schedule& s) { s.lr_decay_style = "WSD", s.wsd_decay_steps = 10, s.lr_wsd_decay_style = "sqrt"; }, "scheduler.lr_wsd_decay_style"},
      {[](Schedule& s) { s.start_wd = 0.2; }, "scheduler.end_weight_decay"},
      {[](Schedule& s) { s.start_wd = 0.0; }, "scheduler.weight_decay_incr_style"},
  };
  for (const Case& c : cases) {
    Schedule s = good;
    c.spoil(s);
    try {
      s.validate();
      FAIL() << "accepted; expected an error about " << c.names;
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find(c.names), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace ponte
