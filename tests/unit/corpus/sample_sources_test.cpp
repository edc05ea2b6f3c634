// Rules and refusals; the sample streams themselves are compared with megatron-core in tests/oracle/test_corpus_samples.py.
#include "corpus/sample_sources.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "format/indexed_dataset.h"
#include "scratch.h"

namespace ponte {
namespace {

// One document per length, ids counting up from 0.
std::string corpus(const fs::path& prefix, const std::vector<int32_t>& lengths) {
  IndexedDatasetWriter writer(prefix, DType::i32);
  int32_t next = 0;
  for (int32_t length : lengths) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < length; ++i) ids.push_back(next++);
    writer.add_document(ids, std::span(&length, 1));
  }
  writer.finalize();
  return prefix.string();
}

std::vector<int32_t> tokens_of(const SampleSource& source, int64_t index) {
  std::vector<int32_t> tokens(static_cast<size_t>(source.seq_length()) + 1);
  std::vector<float> mask(static_cast<size_t>(source.seq_length()));
  source.sample(index, tokens, mask);
  return tokens;
}

TEST(Split, FollowsMegatron) {
  const SplitMatrix usual = parse_split("9999,8,2");
  EXPECT_EQ(usual[0], (std::pair{0.0, 9999.0 / 10009.0}));
  EXPECT_EQ(usual[1]->first, usual[0]->second);
  EXPECT_EQ(usual[2]->second, 9999.0 / 10009.0 + 8.0 / 10009.0 + 2.0 / 10009.0);
  EXPECT_EQ(parse_split("1"), (SplitMatrix{std::pair{0.0, 1.0}, std::nullopt, std::nullopt}));
  EXPECT_EQ(parse_split("0, 5 /5"), (SplitMatrix{std::nullopt, std::pair{0.0, 0.5}, std::pair{0.5, 1.0}}));
  EXPECT_EQ(parse_split(".5,.5"), (SplitMatrix{std::pair{0.0, 0.5}, std::pair{0.5, 1.0}, std::nullopt}));
  for (const char* bad : {"", "a,b", "0,0,0", "1,2,3,4", "1.2.3", "9,-1"}) EXPECT_THROW(parse_split(bad), UserError) << bad;
}

TEST(Blend, ReadsPrefixesAndWeights) {
  EXPECT_EQ(parse_blend({"a", "b", "c"}).prefixes.size(), 3u);
  EXPECT_FALSE(parse_blend({"a", "b"}).weights);
  const Blend weighted = parse_blend({"30", "a", "0.5", "b"});
  EXPECT_EQ(weighted.prefixes, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(*weighted.weights, (std::vector<double>{30, 0.5}));
  EXPECT_USER_ERROR(parse_blend({}), "empty");
  EXPECT_USER_ERROR(parse_blend({"1", "a", "x", "b"}), "some do not");
  EXPECT_USER_ERROR(parse_blend({"0", "a", "1", "b"}), "wanted a positive number");
  EXPECT_USER_ERROR(parse_blend({"inf", "a"}), "wanted a positive number");
}

TEST(Masks, RestartAfterEveryEndOfDocument) {
  const std::vector<int32_t> inputs = {9, 1, 2, 9, 9, 3, 9};
  std::vector<int32_t> positions(inputs.size());
  position_ids_from_eod(inputs, 9, positions);
  EXPECT_EQ(positions, (std::vector<int32_t>{0, 0, 1, 2, 0, 0, 1}));
  EXPECT_EQ(segment_starts(inputs, 9), (std::vector<int32_t>{0, 1, 4, 5}));
}

TEST(Permutation, IsOneForEverySizeSeedAndEpoch) {
  for (int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    for (uint64_t seed : {0ull, 1234ull, ~0ull}) {
      std::set<int64_t> seen;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = permute(i, n, seed, 3);
        ASSERT_TRUE(at >= 0 && at < n);
        seen.insert(at);
      }
      EXPECT_EQ(static_cast<int64_t>(seen.size()), n);
    }
  }
  // The order is part of every checkpoint made with it, so it never changes.
  std::vector<int64_t> first;
  for (int64_t i = 0; i < 10; ++i) first.push_back(permute(i, 10, 1234, 0));
  EXPECT_EQ(first, (std::vector<int64_t>{7, 5, 3, 6, 4, 0, 8, 2, 9, 1}));
  EXPECT_EQ(permute(123456789, int64_t{1} << 40, 7, 5), 276597386621);
}

TEST(Permutation, MixesWell) {
  // Neighbours land apart: the mean distance of a random pair is n / 3.
  const int64_t n = 100000;
  double distance = 0;
  int64_t fixed = 0;
  for (int64_t i = 0; i + 1 < n; ++i) {
    distance += static_cast<double>(std::abs(permute(i, n, 1, 0) - permute(i + 1, n, 1, 0)));
    fixed += permute(i, n, 1, 0) == permute(i, n, 1, 1);
  }
  EXPECT_NEAR(distance / n, n / 3.0, n / 100.0);
  EXPECT_LT(fixed, 10);  // two epochs agree by chance alone: once on average
}

TEST(PermutedBlend, EveryDatasetIsDrawnInItsOwnOrderWithoutGaps) {
  const Scratch scratch;
  DatasetOptions options{.seq_length = 4, .order = SampleOrder::permutation};
  std::vector<std::unique_ptr<SampleSource>> parts;
  for (const char* name : {"a", "b", "c", "d", "e"})
    parts.push_back(std::make_unique<PermutedDataset>(open_for_permutation(corpus(scratch / name, {50, 60})), 0.0, 1.0, Split::train, std::nullopt, options));
  const std::vector<double> weights = {0.5, 0.2, 0.15, 0.1, 0.05};
  const PermutedBlend blend(std::move(parts), weights, 100000);
  std::vector<int64_t> drawn(5, 0);
  for (int64_t i = 0; i < 20000; ++i) {
    const auto [dataset, local] = blend.locate(i);
    ASSERT_EQ(local, drawn[dataset]++);
    for (size_t d = 0; d < 5; ++d) ASSERT_NEAR(static_cast<double>(drawn[d]), weights[d] * static_cast<double>(i + 1), 3.0);
  }
  const auto [dataset, local] = blend.locate(int64_t{1} << 60);
  EXPECT_NEAR(static_cast<double>(local) / static_cast<double>(int64_t{1} << 60), weights[dataset], 1e-9);
}

// Sequences of `length` zeros in a .bin without a single block on disk.
std::string sparse_corpus(const fs::path& prefix, int64_t sequences, int64_t length) {
  const std::string name = corpus(prefix, {1});
  fs::resize_file(bin_path(prefix), static_cast<uintmax_t>(sequences * length * 4));
  std::string idx = read_file(idx_path(prefix)).substr(0, 18);
  const auto put = [&](auto value) { idx.append(reinterpret_cast<const char*>(&value), sizeof value); };
  put(sequences);
  put(sequences + 1);
  for (int64_t i = 0; i < sequences; ++i) put(static_cast<int32_t>(length));
  for (int64_t i = 0; i < sequences; ++i) put(i * length * 4);
  for (int64_t i = 0; i <= sequences; ++i) put(i);
  std::ofstream(idx_path(prefix), std::ios::binary) << idx;
  return name;
}

// Pages of the file that are in memory; those of a hole are there once they were read.
int64_t pages_read(const fs::path& file) {
  const MappedFile mapped(file);
  std::vector<unsigned char> pages((mapped.bytes().size() + 4095) / 4096);
  EXPECT_EQ(::mincore(const_cast<std::byte*>(mapped.bytes().data()), mapped.bytes().size(), pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; });
}

int64_t mappings_of(const fs::path& file) {
  std::ifstream maps("/proc/self/maps");
  int64_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.ends_with(file.string());
  return count;
}

// Start-up at any size: each file is mapped once for all splits, and a few pages of it are read.
TEST(PermutedDataset, OpensWithoutReadingTheCorpus) {
  const Scratch scratch;
  constexpr int64_t kFiles = 12, kLength = 1 << 20, kSequences = 64;
  std::vector<std::string> prefixes;
  for (int64_t i = 0; i < kFiles; ++i) prefixes.push_back(sparse_corpus(scratch / ("c" + std::to_string(i)), kSequences, kLength));
  const DatasetOptions options{.seq_length = 4096, .order = SampleOrder::permutation};
  const auto splits = build_datasets({.blend = Blend{prefixes, std::nullopt}, .blend_per_split = {}, .split = "8,1,1", .num_samples = {}}, options);
  EXPECT_EQ(splits[0]->size(), kFiles * ((51 * kLength - 1) / 4096));  // 51 of 64 sequences
  EXPECT_FALSE(splits[0]->fingerprint().empty());
  for (const std::string& prefix : prefixes) {
    EXPECT_EQ(mappings_of(prefix + ".bin"), 1);
    EXPECT_EQ(mappings_of(prefix + ".idx"), 1);
    EXPECT_LE(pages_read(prefix + ".bin"), 6);  // the fingerprint's three samples
  }
  tokens_of(*splits[0], 12345);
  int64_t pages = 0;
  for (const std::string& prefix : prefixes) pages += pages_read(prefix + ".bin");
  EXPECT_LE(pages, 6 * kFiles + 5);  // 4,097 ids
}

TEST(Datasets, SayHowMuchOfASampleIsText) {
  const Scratch scratch;
  const std::string prefix = corpus(scratch / "a", {30, 13});
  for (SampleOrder order : {SampleOrder::megatron, SampleOrder::permutation})
    for (const bool extra : {true, false}) {
      const DatasetOptions options{.seq_length = 8, .order = order, .add_extra_token_to_sequence = extra, .drop_last_partial_validation_sequence = false, .pad_id = 99};
      const auto splits = build_datasets({.blend = Blend{{prefix}, std::nullopt}, .blend_per_split = {}, .split = "0,1,0", .num_samples = {}}, options);
      const SampleSource& source = *splits[1];
      ASSERT_EQ(source.size(), 6);
      int64_t shortest = 99;
      for (int64_t i = 0; i < source.size(); ++i) {
        std::vector<int32_t> tokens(9);
        std::vector<float> mask(8);
        source.sample(i, tokens, mask);
        const int64_t text = source.text_tokens(i);
        shortest = std::min(shortest, text);
        for (int64_t t = 0; t < 8; ++t) EXPECT_EQ(mask[static_cast<size_t>(t)], t + 1 < text ? 1.0f : 0.0f) << i << " " << t;
        for (int64_t t = text; t < 9; ++t) EXPECT_EQ(tokens[static_cast<size_t>(t)], 0);
        if (shortest == text && text < 8) {
          EXPECT_NE(tokens[static_cast<size_t>(text) - 1], 0);
        }
      }
      EXPECT_EQ(shortest, 3);  // 43 tokens: five whole samples and three tokens
    }
}

TEST(Datasets, SayWhatIsWrong) {
  const Scratch scratch;
  const std::string prefix = corpus(scratch / "a", {10, 20, 30});
  DatasetOptions options{.seq_length = 8};
  const auto build = [&](const std::vector<std::string>& words, const std::string& split, std::array<std::optional<int64_t>, 3> samples) {
    return build_datasets({.blend = parse_blend(words), .blend_per_split = {}, .split = split, .num_samples = samples}, options);
  };
  EXPECT_USER_ERROR(build({(scratch / "absent").string()}, "1", {}), "absent.idx: not found");
  EXPECT_USER_ERROR(build({prefix}, "99,1,0", {5, 5, {}}), "valid split): 5 samples requested, but sequences 3 to 3 hold no tokens");
  EXPECT_EQ(build({prefix}, "99,1,0", {5, 0, {}})[1]->size(), 0);
  EXPECT_USER_ERROR(build({"1", prefix}, "1", {}), "needs the number of samples");
  EXPECT_USER_ERROR(build({prefix}, "1", {-5, {}, {}}), "-5 samples");
  EXPECT_USER_ERROR(tokens_of(*build({prefix}, "1", {3, {}, {}})[0], 100), "sample 100 of");
  EXPECT_USER_ERROR(build_datasets({}, options), "mock data needs");
  options.vocab_size = 40;
  const auto splits = build({prefix}, "1", {7, {}, {}});
  EXPECT_USER_ERROR(
      for (int64_t i = 0; i < 7; ++i) tokens_of(*splits[0], i), "but the vocabulary has 40");
  std::string idx = read_file(idx_path(prefix));
  const std::string lying = (scratch / "lying").string();
  fs::copy_file(bin_path(prefix), bin_path(lying));
  idx.replace(34, 4, "\xff\xff\xff\x7f");
  scratch.write("lying.idx", idx);
  EXPECT_USER_ERROR(build({lying}, "1", {5, {}, {}}), "lying.idx: sequence 0 has length 2147483647, but the .bin holds 60 tokens");
  options = {.seq_length = 0};
  EXPECT_USER_ERROR(build({prefix}, "1", {}), "sequence length 0");
  options = {.seq_length = 100, .order = SampleOrder::permutation};
  EXPECT_USER_ERROR(build({prefix}, "1", {5, {}, {}}), "60 tokens, too few for one sample of 101");
}

TEST(Datasets, ABlendThatAsksForTooMuchIsRefused) {
  const Scratch scratch;
  DatasetOptions options{.seq_length = 4, .mid_level_dataset_surplus = -0.5};
  EXPECT_USER_ERROR(build_datasets({.blend = parse_blend({"1", corpus(scratch / "a", {400}), "1", corpus(scratch / "b", {400})}),
                                    .blend_per_split = {},
                                    .split = "1",
                                    .num_samples = {400, {}, {}}},
                                   options),
                    "raise dataset.mid_level_dataset_surplus");
}

TEST(Datasets, FingerprintsFollowDataAndOptionsNotPlaces) {
  const Scratch scratch;
  const std::string a = corpus(scratch / "a", {30, 40}), b = corpus(scratch / "b", {30, 40}), c = corpus(scratch / "c", {30, 41});
  for (SampleOrder order : {SampleOrder::megatron, SampleOrder::permutation}) {
    const auto fingerprint = [&](const std::string& prefix, DatasetOptions options) {
      options.order = order;
      return build_datasets({.blend = Blend{{prefix}, std::nullopt}, .blend_per_split = {}, .split = "1", .num_samples = {20, {}, {}}},
                            options)[0]
          ->fingerprint();
    };
    const DatasetOptions options{.seq_length = 8};
    EXPECT_EQ(fingerprint(a, options), fingerprint(b, options));
    EXPECT_NE(fingerprint(a, options), fingerprint(c, options));
    EXPECT_NE(fingerprint(a, options), fingerprint(a, {.seq_length = 7}));
    EXPECT_NE(fingerprint(a, options), fingerprint(a, {.seq_length = 8, .random_seed = 5}));
  }
}

TEST(IndexArray, RefusesWhatItDidNotWrite) {
  const Scratch scratch;
  EXPECT_FALSE(IndexArray::load(scratch / "absent.npy"));
  EXPECT_USER_ERROR(IndexArray::load(scratch.write("x.npy", "nonsense")), "delete it");
  IndexArray(std::vector<int32_t>{1, 2, 3, 4}).save(scratch / "y.npy", 2);
  EXPECT_EQ((*IndexArray::load(scratch / "y.npy"))[3], 4);
  const std::string whole = read_file(scratch / "y.npy");
  EXPECT_EQ(whole.size() % 64, 16u);
  for (size_t size = 0; size < whole.size(); ++size) {
    scratch.write("z.npy", whole.substr(0, size));
    try {
      EXPECT_LT(IndexArray::load(scratch / "z.npy")->size(), 4);
    } catch (const UserError&) {
    }
  }
}

}  // namespace
}  // namespace ponte
