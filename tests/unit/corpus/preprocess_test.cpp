// Behaviour of the pipeline; that its bytes are Megatron's is tested in tests/oracle/test_corpus_preprocess.py.
#include "corpus/preprocess.h"

#include "corpus/staged_pair.h"
#include "format/indexed_dataset.h"
#include "scratch.h"
#include "text/tokenizer.h"

namespace ponte {
namespace {

const std::string kTokenizer = std::string(PONTE_SOURCE_DIR) + "/demo/base";

std::string documents(int count) {
  std::string out;
  for (int i = 0; i < count; ++i)
    out += "{\"text\": \"Document " + std::to_string(i) + " says: " + std::string(static_cast<size_t>(i % 50), 'z') +
           "\\n\", \"title\": \"t" + std::to_string(i) + "\"}\n";
  return out;
}

struct Job : Scratch {
  PreprocessOptions options{
      .inputs = {}, .output_prefix = (*this / "out").string(), .tokenizer_model = kTokenizer, .append_eod = true, .workers = 2};
  PreprocessSummary run() { return preprocess(options); }
  std::string pair(const std::string& key = "text") const {
    return read_file(*this / ("out_" + key + "_document.bin")) + "|" + read_file(*this / ("out_" + key + "_document.idx"));
  }
};

TEST(Preprocess, TheNumberOfWorkersAndTheCuttingOfFilesChangeNothing) {
  Job job;
  job.options.inputs = {job.write("all.jsonl", documents(3000)).string()};
  job.options.overwrite = true;
  const auto summary = job.run();
  EXPECT_EQ(summary.outputs[0].documents, 3000);
  const std::string wanted = job.pair();
  for (int64_t workers : {1, 3, 16}) {
    job.options.workers = workers;
    job.options.shard_bytes = workers == 3 ? 1 : 1000;
    job.run();
    EXPECT_EQ(job.pair(), wanted) << workers;
  }
  const std::string text = documents(3000);
  const size_t cut = text.find('\n', text.size() / 3) + 1;
  job.write("parts/b.jsonl", text.substr(cut));
  job.write("parts/a.json", text.substr(0, cut));
  job.write("parts/readme.md", "not data");
  job.options.inputs = {(job / "parts").string()};
  job.run();
  EXPECT_EQ(job.pair(), wanted);
  job.options.inputs = {(job / "parts/[ab].json*").string()};
  job.run();
  EXPECT_EQ(job.pair(), wanted);
}

TEST(Preprocess, ErrorsNameFileAndLine) {
  Job job;
  const std::string good = documents(1);
  const std::pair<std::string, std::string> cases[] = {
      {good + "{\"txt\": \"x\"}\n", "x.jsonl:2: no key 'text'"},
      {good + "\n" + good + "nonsense\n", "x.jsonl:4: column 1: not a JSON object"},
      {good + "{\"text\": \"\xff\"}", "x.jsonl:2: column 11: not valid UTF-8"},
      {good + "{\"text\": \"" + std::string(3000, 'a') + "\"}\n",
       "x.jsonl:2: a document of 3.01 kB, longer than --max-document-bytes 2000"},
      {good + std::string(5 << 20, 'a') + "\n" + good, "x.jsonl:2: a document of 5.24 MB, longer than --max-document-bytes 2000"},
  };
  job.options.max_document_bytes = 2000;
  for (const auto& [text, error] : cases) {
    job.options.inputs = {job.write("x.jsonl", text).string()};
    job.options.on_error = OnError::stop;
    EXPECT_USER_ERROR(job.run(), error);
    EXPECT_FALSE(fs::exists(job / "out_text_document.idx"));
    job.options.on_error = OnError::skip;
    job.options.overwrite = true;
    const auto summary = job.run();
    EXPECT_EQ(summary.skipped, 1);
    fs::remove(job / "out_text_document.idx");
    fs::remove(job / "out_text_document.bin");
  }
}

// The format's limit, 2^31 - 1, made small; the end of the document counts.
TEST(Preprocess, DocumentsOfTooManyTokensAreErrorsInEveryKey) {
  Job job;
  const std::string good = "{\"title\": \"t\", \"text\": \"a b\"}\n", bad = "{\"title\": [\"t\", \"u\"], \"text\": \"1 2 3 4\"}\n";
  job.options.json_keys = {"title", "text"};
  job.options.inputs = {job.write("x.jsonl", good + bad + good).string()};
  job.options.max_document_tokens = 5;
  EXPECT_USER_ERROR(job.run(), "x.jsonl:2: a document of 8 tokens, wanted at most 5");
  job.options.on_error = OnError::skip;
  job.options.overwrite = true;
  const auto summary = job.run();
  EXPECT_EQ(summary.skipped, 1);
  const std::string titles = job.pair("title"), texts = job.pair("text");
  job.options.inputs = {job.write("y.jsonl", good + good).string()};
  EXPECT_EQ(job.run().skipped, 0);
  EXPECT_EQ(job.pair("title"), titles);
  EXPECT_EQ(job.pair("text"), texts);
}

TEST(Preprocess, RefusesWhatItCannotDo) {
  Job job;
  EXPECT_USER_ERROR(job.run(), "nothing given");
  job.options.inputs = {(job / "absent*.jsonl").string()};
  EXPECT_USER_ERROR(job.run(), "no file matches");
  fs::create_directories(job / "empty");
  job.options.inputs = {(job / "empty").string()};
  EXPECT_USER_ERROR(job.run(), "in this folder");
  job.options.inputs = {job.write("x.jsonl", documents(1)).string()};
  job.options.json_keys = {"text", "text"};
  EXPECT_USER_ERROR(job.run(), "named twice");
  job.options.json_keys = {"../text"};
  EXPECT_USER_ERROR(job.run(), "file name");
  job.options.json_keys = {"text", "title"};
  job.options.inputs = {job.write("x.txt", "hello").string()};
  EXPECT_USER_ERROR(job.run(), "plain text has no keys");
  job.options.json_keys = {"text"};
  job.run();
  EXPECT_USER_ERROR(job.run(), "already exists");
}

TEST(Preprocess, GoesOnAfterAnInterruption) {
  Job job;
  std::string text = documents(20000) + "broken\n" + documents(2000);
  job.options.inputs = {job.write("x.jsonl", text).string()};
  job.options.shard_bytes = 1;
  job.options.json_keys = {"text", "title"};
  EXPECT_USER_ERROR(job.run(), "x.jsonl:20001");
  EXPECT_TRUE(fs::exists(work_folder(job.options.output_prefix, "preprocess") / "state.json"));
  job.options.on_error = OnError::skip;
  const auto summary = job.run();
  EXPECT_TRUE(summary.resumed);
  EXPECT_EQ(summary.outputs[0].documents, 22000);
  const std::string continued = job.pair() + job.pair("title");
  EXPECT_FALSE(fs::exists(work_folder(job.options.output_prefix, "preprocess")));
  job.options.overwrite = true;
  EXPECT_FALSE(job.run().resumed);
  EXPECT_EQ(job.pair() + job.pair("title"), continued);
}

TEST(Preprocess, AFinishedRunThatCouldNotMoveItsFilesIsCompleted) {
  Job job;
  job.options.inputs = {job.write("x.jsonl", documents(10)).string()};
  const fs::path in_the_way = job / "out_text_document.bin" / "x", work = work_folder(job.options.output_prefix, "preprocess");
  const auto stop_before_the_move = [&] {
    fs::create_directories(in_the_way);
    job.options.overwrite = true;
    EXPECT_USER_ERROR(job.run(), "cannot move");
    job.options.overwrite = false;
    fs::remove_all(in_the_way.parent_path());
    EXPECT_TRUE(fs::exists(work / "state.json"));
  };
  stop_before_the_move();
  EXPECT_TRUE(job.run().resumed);
  const std::string wanted = job.pair();
  EXPECT_FALSE(fs::exists(work));
  fs::remove(job / "out_text_document.bin");
  fs::remove(job / "out_text_document.idx");
  stop_before_the_move();
  fs::remove(work / "part0.bin");  // as if moved, and lost since
  fs::remove(work / "part0.idx");
  EXPECT_USER_ERROR(job.run(), "gone since an earlier run");
  EXPECT_FALSE(job.run().resumed);
  EXPECT_EQ(job.pair(), wanted);
}

TEST(Preprocess, LimitsAndPartitions) {
  Job job;
  job.options.inputs = {job.write("x.jsonl", documents(100)).string()};
  job.options.overwrite = true;
  job.options.max_docs = 37;
  EXPECT_EQ(job.run().outputs[0].documents, 37);
  const std::string limited = job.pair();
  job.options.max_docs = 0;
  job.options.inputs = {job.write("x.jsonl", documents(37)).string()};
  job.run();
  EXPECT_EQ(job.pair(), limited);
  const IndexedDataset plain(job / "out_text_document");
  std::vector<std::vector<int32_t>> in_order;
  for (int64_t i = 0; i < 37; ++i) in_order.push_back(plain.sequence(i));
  job.options.partitions = 5;
  EXPECT_EQ(job.run().outputs[0].documents, 37);
  const IndexedDataset parted(job / "out_text_document");
  parted.verify();
  int64_t at = 0;
  for (size_t p = 0; p < 5; ++p)
    for (size_t i = p; i < 37; i += 5) EXPECT_EQ(parted.sequence(at++), in_order[i]);
}

TEST(Preprocess, PlainTextIsADocumentPerFileOrLine) {
  Job job;
  const Tokenizer tokenizer = Tokenizer::load(kTokenizer);
  job.options.inputs = {job.write("x.txt", "\xEF\xBB\xBFone line\n\ntwo lines\r\n").string()};
  job.options.overwrite = true;
  job.options.append_eod = false;
  job.run();
  EXPECT_EQ(IndexedDataset(job / "out_text_document").sequence(0), tokenizer.encode("one line\n\ntwo lines\r\n"));
  job.options.text_unit = TextUnit::line;
  const auto summary = job.run();
  EXPECT_EQ(summary.outputs[0].documents, 2);
  EXPECT_EQ(summary.blank, 1);
  EXPECT_EQ(IndexedDataset(job / "out_text_document").sequence(1), tokenizer.encode("two lines"));
}

TEST(Preprocess, EmptyTextsAndListsAsMegatronTreatsThem) {
  Job job;
  const Tokenizer tokenizer = Tokenizer::load(kTokenizer);
  job.options.inputs = {job.write("x.jsonl", "{\"text\": \"\"}\n{\"text\": []}\n{\"text\": [\"a b\", \"\", \"c\"]}\n").string()};
  job.run();
  const IndexedDataset dataset(job / "out_text_document");
  EXPECT_EQ(dataset.documents(), 3);
  EXPECT_EQ(dataset.sequences(), 2);
  EXPECT_EQ(dataset.document_index(2), 0);
  EXPECT_EQ(dataset.sequence(0), tokenizer.encode("a b"));
  auto last = tokenizer.encode("c");
  last.push_back(*tokenizer.eos_id());
  EXPECT_EQ(dataset.sequence(1), last);
}

TEST(StagedPair, AnInterruptedMoveIsCompleted) {
  const Scratch scratch;
  const auto ready = [&] {
    scratch.write("new.bin", "new ids");
    scratch.write("new.idx", "new index");
    scratch.write("old.bin", "old ids");
    scratch.write("old.idx", "old index");
  };
  const auto expect_published = [&] {
    publish_pair(scratch / "new", scratch / "old");
    EXPECT_EQ(read_file(scratch / "old.bin") + read_file(scratch / "old.idx"), "new idsnew index");
  };
  ready();
  expect_published();
  expect_published();
  ready();
  fs::remove(scratch / "old.idx");  // stopped after the old index was taken away
  expect_published();
  ready();
  fs::remove(scratch / "old.idx");
  fs::rename(scratch / "new.bin", scratch / "old.bin");  // stopped between the two moves
  expect_published();
}

}  // namespace
}  // namespace ponte
