// What a checkpoint says of the run comes back as it was, through the archives themselves; and Megatron's own files are understood.
#include "checkpoint/run_record.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"
#include "format/torch_zip.h"

namespace ponte {
namespace {

Config small_config() {
  Config config;
  config.model.fp16 = true;
  config.optimizer.adam_beta2 = 0.95;
  return config;
}

Schedule small_schedule() {
  return {.max_lr = 1e-3, .min_lr = 1e-4, .lr_warmup_steps = 8, .lr_decay_steps = 400, .lr_decay_style = "cosine", .start_wd = 0.1, .end_wd = 0.1,
          .wd_incr_steps = 400};
}

RunState sample_state() {
  return {.train = {.step = 3,
                    .consumed_train_samples = 12,
                    .skipped_train_samples = 4,
                    .consumed_valid_samples = 20,
                    .floating_point_operations_so_far = 1.5e20},
          .schedule_steps = 8,
          .optimizer_steps = 2,
          .loss_scaler = {.scale = 1024, .growth_tracker = 7, .hysteresis_tracker = 1},
          .data = {.train_fingerprint = "abc", .valid_fingerprint = "def", .requested_train_samples = 400, .order = "megatron"},
          .best = {.iteration = 2, .loss = 0.1}};
}

Value through_archive(const Value& value, std::string& keep) {
  keep = write_torch_archive(value);
  return read_torch_archive(std::as_bytes(std::span(keep)), "test");
}

TEST(RunRecord, NegativeCountsAreRefused) {
  RunState state = sample_state();
  state.train.consumed_train_samples = -4;
  EXPECT_THROW(train_state_from(train_state_value(state.train), "test"), UserError);
}

TEST(RunRecord, ComesBackAsItWas) {
  const RunState before = sample_state();
  const Schedule schedule = small_schedule();
  std::string keep_common, keep_train;
  const Value common = through_archive(common_state_value(small_config(), before, &schedule), keep_common);
  RunState after;
  after.train = train_state_from(through_archive(train_state_value(before.train), keep_train), "test");
  read_common_state(common, "test", after);
  read_run_record(parse_json(dump_json(run_record_json(before)), "test"), "test", after);
  EXPECT_EQ(after.train.step, 3);
  EXPECT_EQ(after.train.consumed_train_samples, 12);
  EXPECT_EQ(after.train.skipped_train_samples, 4);
  EXPECT_EQ(after.train.consumed_valid_samples, 20);
  EXPECT_EQ(after.train.floating_point_operations_so_far, 1.5e20);
  EXPECT_EQ(after.schedule_steps, 8);
  EXPECT_EQ(after.optimizer_steps, 2);
  EXPECT_EQ(after.loss_scaler, before.loss_scaler);
  EXPECT_EQ(after.data.train_fingerprint, "abc");
  EXPECT_EQ(after.data.valid_fingerprint, "def");
  EXPECT_EQ(after.data.requested_train_samples, 400);
  EXPECT_EQ(after.data.order, "megatron");
  EXPECT_EQ(after.best.iteration, 2);
  EXPECT_EQ(after.best.loss, 0.1);
}

TEST(RunRecord, UnderstandsMegatronsFiles) {
  const fs::path folder = fs::path(PONTE_GOLDEN_DIR) / "trained/qwen3_opt_fully_reshardable/mcore/iter_0000003";
  const Value common = load_torch_file(folder / "common.pt");
  RunState state;
  state.train = train_state_from(load_torch_file(folder / "train_state.pt"), "golden");
  read_common_state(common, "golden", state);
  EXPECT_EQ(state.train.step, 3);
  EXPECT_EQ(state.train.consumed_train_samples, 12);
  EXPECT_EQ(state.schedule_steps, 12);
  EXPECT_EQ(state.optimizer_steps, 3);
  const Schedule stored = reconcile_schedule(Schedule{}, common, SchedulePolicy::from_checkpoint, "golden");
  EXPECT_EQ(stored.max_lr, 1e-3);
  EXPECT_EQ(stored.lr_warmup_steps, 8);
  EXPECT_EQ(stored.lr_decay_steps, 400);
  // The rate Megatron had in its parameter groups is the one our schedule gives.
  const double rate = common.at("optimizer", "").at("optimizer", "").at("param_groups", "").items("")[0].at("lr", "").as_real("");
  EXPECT_DOUBLE_EQ(stored.learning_rate(state.schedule_steps), rate);
}

TEST(RunRecord, OurCommonStateHasMegatronsKeys) {
  const fs::path folder = fs::path(PONTE_GOLDEN_DIR) / "trained/qwen3_opt_fully_reshardable/mcore/iter_0000003";
  const Value theirs = load_torch_file(folder / "common.pt");
  Config config = small_config();
  config.model.fp16 = false;
  const Schedule schedule = small_schedule();
  const Value ours = common_state_value(config, sample_state(), &schedule);
  const auto names = [](const Value& dict) {
    std::vector<std::string> out;
    for (const auto& [key, value] : dict.entries("")) out.push_back(key.as_text(""));
    std::sort(out.begin(), out.end());
    return out;
  };
  std::vector<std::string> top = names(ours);
  std::erase(top, "args");  // Megatron-LM's; Bridge writes none
  EXPECT_EQ(top, names(theirs));
  for (const char* key : {"opt_param_scheduler", "content_metadata", "optimizer"}) EXPECT_EQ(names(ours.at(key, "")), names(theirs.at(key, ""))) << key;
  const auto group = [&](const Value& common, size_t i) { return common.at("optimizer", "").at("optimizer", "").at("param_groups", "").items("")[i]; };
  for (size_t i : {0u, 1u}) {
    EXPECT_EQ(names(group(ours, i)), names(group(theirs, i)));
    EXPECT_EQ(group(ours, i).at("wd_mult", "").as_real(""), group(theirs, i).at("wd_mult", "").as_real(""));
  }
}

TEST(RunRecord, ScheduleMustMatchUnlessToldOtherwise) {
  const Schedule stored = small_schedule();
  const Value common = common_state_value(small_config(), sample_state(), &stored);
  Schedule now = stored;
  now.max_lr = 2e-3;
  EXPECT_EQ(reconcile_schedule(stored, common, SchedulePolicy::must_match, "test").max_lr, 1e-3);
  EXPECT_EQ(reconcile_schedule(now, common, SchedulePolicy::from_checkpoint, "test").max_lr, 1e-3);
  EXPECT_EQ(reconcile_schedule(now, common, SchedulePolicy::from_config, "test").max_lr, 2e-3);
  try {
    reconcile_schedule(now, common, SchedulePolicy::must_match, "folder");
    FAIL() << "accepted another schedule";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("max_lr 0.001 and this run 0.002"), std::string::npos) << e.what();
  }
}

TEST(RunRecord, GeneratorState) {
  std::string keep;
  const std::string bytes = "\x01\x02" + std::string(5054, '\0');
  EXPECT_EQ(torch_generator_state_from(through_archive(rng_state_value(1234, bytes), keep), "test"), bytes);
  EXPECT_THROW(torch_generator_state_from(Value::dict_of({}), "test"), UserError);
  EXPECT_THROW(torch_generator_state_from(Value::text("x"), "test"), UserError);
}

TEST(RunRecord, HostileRecords) {
  RunState state;
  for (const char* text :
       {"[]", "{}", R"({"data": {}})", R"({"data": {"order": 1, "requested_train_samples": 1, "train_fingerprint": "", "valid_fingerprint": ""}})"})
    EXPECT_THROW(read_run_record(parse_json(text, "test"), "test", state), UserError) << text;
  const Value empty_group = Value::dict_of({{"optimizer", Value::dict_of({{"optimizer", Value::dict_of({{"param_groups", Value::list({})}})}})}});
  EXPECT_THROW(read_common_state(empty_group, "test", state), UserError);
  EXPECT_THROW(train_state_from(Value::dict_of({{"step", Value::text("three")}}), "test"), UserError);
}

}  // namespace
}  // namespace ponte
