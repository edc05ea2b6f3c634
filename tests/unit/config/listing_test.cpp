// The listing against the structs it lists.
#include <gtest/gtest.h>

#include <set>

#include "config/field.h"
#include "config/foreign.h"

namespace ponte {
namespace {

struct Anything {
  template <class T>
  operator T() const;
};

// How many members an aggregate has: the most initialisers it takes.
template <class T, class... Args>
constexpr size_t member_count() {
  if constexpr (requires { T{Args{}..., Anything{}}; }) return member_count<T, Args..., Anything>();
  else return sizeof...(Args);
}

size_t listed(const std::string& section) {
  size_t count = 0;
  for (const Field& field : config_fields()) count += field.section == section;
  return count;
}

TEST(Listing, HasEveryMemberOfEverySection) {
  EXPECT_EQ(listed("model"), member_count<ModelConfig>());
  EXPECT_EQ(listed("train"), member_count<TrainConfig>());
  EXPECT_EQ(listed("validation"), member_count<ValidationConfig>());
  EXPECT_EQ(listed("optimizer"), member_count<OptimizerConfig>());
  EXPECT_EQ(listed("scheduler"), member_count<SchedulerConfig>());
  EXPECT_EQ(listed("ddp"), member_count<DdpConfig>());
  EXPECT_EQ(listed("dist"), member_count<DistConfig>());
  EXPECT_EQ(listed("dataset"), member_count<DatasetConfig>());
  EXPECT_EQ(listed("tokenizer"), member_count<TokenizerConfig>());
  EXPECT_EQ(listed("checkpoint"), member_count<CheckpointConfig>());
  EXPECT_EQ(listed("logger"), member_count<LoggerConfig>());
  EXPECT_EQ(listed("mixed_precision"), member_count<MixedPrecisionConfig>());
  EXPECT_EQ(listed("peft"), member_count<PeftConfig>());
  EXPECT_EQ(listed("comm_overlap"), member_count<CommOverlapConfig>());
  EXPECT_EQ(listed("rng"), member_count<RngConfig>());
  EXPECT_EQ(listed("profiling"), member_count<ProfilingConfig>());
  EXPECT_EQ(config_sections().size(), member_count<Config>());
}

TEST(Listing, RowsAreDistinctAndDocumented) {
  std::set<std::string> names, values;
  for (const Field& field : config_fields()) {
    EXPECT_TRUE(names.insert(field.name()).second) << field.name();
    if (field.role == FieldRole::internal) continue;
    EXPECT_FALSE(field.doc.empty()) << field.name();
    EXPECT_EQ(field.doc.find('\n'), std::string::npos);
  }
  for (const std::string& name : foreign_names()) EXPECT_FALSE(names.contains(name)) << name << " is ours and foreign";
  for (const auto& [theirs, ours] : key_aliases()) {
    EXPECT_TRUE(find_field(ours)) << ours;
    EXPECT_FALSE(find_field(theirs)) << theirs;
  }
}

// Every default must be a value the row itself accepts.
TEST(Listing, DefaultsReadBack) {
  const Config defaults;
  for (const Field& field : config_fields()) {
    Config copy;
    const YamlValue document = parse_value("v: " + field.print(defaults) + "\n", "default");
    EXPECT_TRUE(field.assign(copy, *document.find("v"))) << field.name() << " = " << field.print(defaults);
    EXPECT_EQ(field.print(copy), field.print(defaults)) << field.name();
  }
}

}  // namespace
}  // namespace ponte
