// Merging against its definition, unknown symbols, and errors.
#include "text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/errors.h"

namespace ponte {
namespace {

using Merges = std::vector<std::pair<std::string_view, std::string_view>>;

TokenTable table(const std::vector<std::string>& tokens) {
  TokenTable out;
  for (size_t i = 0; i < tokens.size(); ++i) out.insert(tokens[i], static_cast<int32_t>(i));
  return out;
}

// A vocabulary of bytes and random merges over a few letters.
struct Model {
  std::vector<std::string> tokens;
  std::vector<std::pair<std::string, std::string>> merges;
  explicit Model(uint64_t seed, size_t count) {
    for (const std::string& s : byte_spelling()) tokens.push_back(s);
    std::vector<std::string> pool = {"a", "b", "c"};
    while (merges.size() < count) {
      seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
      const auto l = pool[seed % pool.size()], r = pool[seed / 1000 % pool.size()];
      if (std::find(tokens.begin(), tokens.end(), l + r) != tokens.end()) continue;
      tokens.push_back(l + r), pool.push_back(l + r), merges.emplace_back(l, r);
    }
  }
  Bpe bpe() const { return Bpe(table(tokens), Merges(merges.begin(), merges.end()), {.byte_level = true}); }
  // The definition: the pair of lowest rank, leftmost, again and again.
  std::vector<int32_t> slow(std::string_view word) const {
    std::vector<std::string> parts;
    for (const char c : word) parts.emplace_back(1, c);
    for (;;) {
      size_t best = merges.size(), at = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i)
        for (size_t m = 0; m < best; ++m)
          if (merges[m].first == parts[i] && merges[m].second == parts[i + 1]) best = m, at = i;
      if (best == merges.size()) break;
      parts[at] += parts[at + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    std::vector<int32_t> out;
    for (const auto& p : parts) out.push_back(static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), p) - tokens.begin()));
    return out;
  }
};

TEST(Bpe, EqualsTheDefinitionForEveryLength) {
  BpeScratch scratch;
  for (uint64_t seed = 1; seed < 6; ++seed) {
    const Model model(seed * 7919, 40);
    const Bpe bpe = model.bpe();
    uint64_t state = seed;
    for (const size_t length : {0, 1, 2, 3, 7, 20, 63, 64, 65, 100, 129, 255, 256, 257, 300}) {
      for (int repeat = 0; repeat < 20; ++repeat) {
        std::string word;
        for (size_t i = 0; i < length; ++i) state = state * 6364136223846793005u + 1442695040888963407u, word += "abc"[state >> 33 & 3 ? (state >> 35) % 3 : 0];
        std::vector<int32_t> ids;
        bpe.encode(word, scratch, ids);
        EXPECT_EQ(ids, model.slow(word)) << word;
      }
    }
  }
}

TEST(Bpe, UnknownCharactersAndByteFallback) {
  const auto encode = [](BpeOptions options, std::string_view word) {
    const Bpe bpe(table({"<unk>", "a", "b", "ab", "<0xC3>", "<0xA9>"}), {{"a", "b"}}, std::move(options));
    BpeScratch scratch;
    std::vector<int32_t> ids;
    bpe.encode(word, scratch, ids);
    return ids;
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(encode({}, "axxb"), (Ids{3}));  // unknown characters without an unknown token vanish before merging
  EXPECT_EQ(encode({.unknown_token = "<unk>"}, "axxb"), (Ids{1, 0, 0, 2}));
  EXPECT_EQ(encode({.fuse_unknown = true, .unknown_token = "<unk>"}, "axxb"), (Ids{1, 0, 2}));
  EXPECT_EQ(encode({.byte_fallback = true, .unknown_token = "<unk>"}, "a\xC3\xA9x"), (Ids{1, 4, 5, 0}));
}

TEST(Bpe, ErrorsNameTheMerge) {
  try {
    Bpe(table({"a", "b"}), {{"a", "b"}}, {});
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("merge 1 ('a' + 'b') needs token 'ab'"), std::string::npos) << e.what();
  }
  EXPECT_THROW(Bpe(table({"a"}), {}, {.unknown_token = "?"}), UserError);
}

}  // namespace
}  // namespace ponte
