// The dynamic loss scale step by step, as Megatron moves it.
#include "optim/loss_scaler.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"

namespace ponte {
namespace {

TEST(LossScaler, EqualsMegatronCore) {
  const Json golden = read_json(std::filesystem::path(PONTE_SOURCE_DIR) / "tests/golden/schedule/schedules.json");
  LossScaler scaler = LossScaler::dynamic({.initial_scale = 65536, .min_scale = 1, .growth_interval = 4, .hysteresis = 2});
  for (const Json& row : golden.at("loss_scales")) {
    scaler.update(row[0] == 1);
    const LossScaler::State expected{.scale = row[1], .growth_tracker = row[2], .hysteresis_tracker = row[3]};
    EXPECT_EQ(scaler.state(), expected);
  }
  EXPECT_EQ(scaler.scale(), 1.0);  // the golden ends at the floor
}

TEST(LossScaler, ConstantNeverMoves) {
  LossScaler scaler = LossScaler::constant(128);
  for (bool bad : {true, true, true, false, true}) scaler.update(bad);
  EXPECT_EQ(scaler.scale(), 128);
}

TEST(LossScaler, RefusesImpossibleSettings) {
  EXPECT_THROW(LossScaler::constant(0), UserError);
  EXPECT_THROW(LossScaler::dynamic({.min_scale = 0}), UserError);
  EXPECT_THROW(LossScaler::dynamic({.initial_scale = 1, .min_scale = 2}), UserError);
  EXPECT_THROW(LossScaler::dynamic({.growth_interval = 0}), UserError);
  EXPECT_THROW(LossScaler::dynamic({.hysteresis = 0}), UserError);
}

}  // namespace
}  // namespace ponte
