// A tokenizer as its users see it: round trips, threads, streams, hostile files.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/errors.h"
#include "base/file.h"

namespace ponte {
namespace {

const fs::path kDemo = fs::path(PONTE_SOURCE_DIR) / "demo" / "base";

const std::string kTexts[] = {"", "Hello, world!", "<|im_start|>user\nhi<|im_end|>\n",
    "caf\xC3\xA9 cafe\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x99\x82\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD",
                              "  indented\n\n\n\ttext  ", "1234567890", std::string(5000, 'a') + std::string(5000, ' ')};

TEST(Tokenizer, IsLookedForInAFolderAndNowhereElse) {
  EXPECT_TRUE(Tokenizer::is_in(kDemo));
  EXPECT_FALSE(Tokenizer::is_in(kDemo.parent_path()));
  const fs::path before = fs::current_path();
  fs::current_path(kDemo);
  EXPECT_FALSE(Tokenizer::is_in(""));
  fs::current_path(before);
}

TEST(Tokenizer, DecodeUndoesEncode) {
  const Tokenizer t = Tokenizer::load(kDemo);
  EXPECT_EQ(t.decode(t.encode("caf\xC3\xA9 \xE4\xBD\xA0\xF0\x9F\x99\x82 x")), "caf\xC3\xA9 \xE4\xBD\xA0\xF0\x9F\x99\x82 x");
  EXPECT_EQ(t.encode("cafe\xCC\x81"), t.encode("caf\xC3\xA9"));  // NFC
  const auto ids = t.encode("<|im_start|>hi<|im_end|>");
  EXPECT_EQ(ids.front(), t.id_of("<|im_start|>"));
  EXPECT_EQ(ids.back(), t.id_of("<|im_end|>"));
  EXPECT_EQ(t.decode(ids, SkipSpecial::yes), "hi");
  EXPECT_TRUE(t.is_special(ids.front()));
  EXPECT_EQ(t.token_of(ids.front()), "<|im_start|>");
  EXPECT_EQ(t.token_of(1 << 30), "");
  EXPECT_EQ(t.vocab_size(), t.max_id() + 1);
  EXPECT_EQ(t.decode(std::vector<int32_t>{-1, 1 << 30}), "");
}

TEST(Tokenizer, OffsetsInCharactersAndInBytesOfTheTextAsGiven) {
  const Tokenizer t = Tokenizer::load(kDemo);
  const std::string text = "a\xFF\xFE caf\xC3\xA9 <|im_end|>";  // two ill-formed bytes, one character of two
  const auto spans = [&](OffsetUnit unit) { return t.encode_with_offsets(text, AddSpecial::no, unit); };
  const auto characters = spans(OffsetUnit::characters), bytes = spans(OffsetUnit::bytes);
  ASSERT_EQ(characters.size(), bytes.size());
  EXPECT_EQ(characters.front(), (TokenSpan{t.encode("a")[0], 0, 1}));
  EXPECT_EQ(characters.back(), (TokenSpan{*t.id_of("<|im_end|>"), 9, 19}));
  EXPECT_EQ(bytes.back(), (TokenSpan{*t.id_of("<|im_end|>"), 10, 20}));
  uint32_t reached = 0;
  for (const TokenSpan& span : bytes) {  // no gap and no step back; parts of a character share its place
    EXPECT_LE(span.begin, reached);
    EXPECT_GE(span.end, reached);
    reached = span.end;
  }
  EXPECT_EQ(reached, text.size());
  const auto ids = t.encode(text, AddSpecial::no);
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(ids[i], characters[i].id);
  EXPECT_TRUE(t.encode_with_offsets("").empty());
}

TEST(Tokenizer, AFileIsLoadedByWhatItHolds) {
  EXPECT_EQ(Tokenizer::load(kDemo / "tokenizer.json").vocab_size(), Tokenizer::load(kDemo).vocab_size());
  const Tokenizer model = Tokenizer::load(fs::path(PONTE_SOURCE_DIR) / "tests" / "fuzz" / "corpus" / "sentencepiece_model" / "bytes");
  EXPECT_EQ(model.decode(model.encode("the cat \xE4\xB8\xAD")), "the cat \xE4\xB8\xAD");
  EXPECT_THROW(Tokenizer::load(fs::path(PONTE_SOURCE_DIR) / "tests"), UserError);
}

TEST(Tokenizer, ThreadsGiveTheSameIds) {
  const Tokenizer t = Tokenizer::load(kDemo);
  std::vector<std::vector<int32_t>> want;
  for (const auto& text : kTexts) want.push_back(t.encode(text));
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int k = 0; k < 4; ++k)
    threads.emplace_back([&, k] {
      for (int i = 0; i < 200; ++i) {
        const size_t at = static_cast<size_t>(i * 7 + k) % std::size(kTexts);
        wrong += t.encode(kTexts[at]) != want[at];
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(StreamDecoder, NeverBreaksACharacter) {
  const Tokenizer t = Tokenizer::load(kDemo);
  for (const auto& text : kTexts) {
    const auto ids = t.encode(text);
    StreamDecoder stream(t, SkipSpecial::no);
    std::string all;
    for (const int32_t id : ids) {
      const std::string piece = stream.push(id);
      EXPECT_EQ(piece.find("\xEF\xBF\xBD"), std::string::npos);
      EXPECT_TRUE(piece.empty() || (static_cast<uint8_t>(piece[0]) & 0xC0) != 0x80);
      all += piece;
    }
    EXPECT_EQ(all + stream.finish(), t.decode(ids));
  }
}

TEST(StreamDecoder, AnUnfinishedCharacterIsReplacedAtTheEnd) {
  const Tokenizer t = Tokenizer::load(kDemo);
  StreamDecoder stream(t, SkipSpecial::no);
  const auto emoji = t.encode("\xF0\x9F\x99\x82");
  if (emoji.size() < 2) GTEST_FAIL() << "the demo tokenizer spells this character with one token";
  EXPECT_EQ(stream.push(emoji[0]), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
  std::string again;
  for (const int32_t id : emoji) again += stream.push(id);
  EXPECT_EQ(again + stream.finish(), "\xF0\x9F\x99\x82");
}

TEST(Tokenizer, HostileFilesAreErrors) {
  for (const std::string json : {"", "{", "[]", "null", "{}", R"({"model": 3})", R"({"model": {"type": "BPE"}})",
      R"({"model": {"type": "BPE", "vocab": [], "merges": []}})",
                                 R"({"model": {"type": "BPE", "vocab": {"a": 1.5}, "merges": []}})",
                                     R"({"model": {"type": "BPE", "vocab": {"a": 9999999}, "merges": []}})",
                                 R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [3]}})",
                                     R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}})",
                                 R"({"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": [{"id": 0}]})",
                                 R"({"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": {"type": "Metaspace", "replacement": ""}})",
                                 R"({"model": {"type": "BPE", "vocab": {}, "merges": []}, "post_processor": {"type": "BertProcessing", "sep": [],
                                   "cls": []}})"})
    EXPECT_THROW(Tokenizer::parse(json, "", "test"), UserError) << json;
  const std::string empty = R"({"model": {"type": "BPE", "vocab": {}, "merges": []}})";
  EXPECT_EQ(Tokenizer::parse(empty, "", "test").encode("abc").size(), 0u);
  for (const std::string config : {"[]", "{", R"({"eos_token": 3})", R"({"added_tokens_decoder": {"x": {"content": "a"}}})",
      R"({"added_tokens_decoder": {"7": {"content": "a"}}})"})
    EXPECT_THROW(Tokenizer::parse(empty, config, "test"), UserError) << config;
}

}  // namespace
}  // namespace ponte
