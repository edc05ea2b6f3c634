// Encodes a corpus of {"text": ...} lines from cold caches and prints MB/s, beside the rate at which the same memory is read.
//   ponte-bench-tokenize TOKENIZER_DIR CORPUS.jsonl [--megabytes 100] [--threads 1] [--passes 3]
#include <simdjson.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "base/errors.h"
#include "base/file.h"
#include "text/tokenizer.h"

namespace ponte {
namespace {

// Of all threads together: on a busy machine wall time says little.
double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}
double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The texts of the corpus one after the other, and where each ends.
struct Corpus {
  std::string text;
  std::vector<size_t> ends;
};

Corpus read_corpus(const char* file, size_t most) {
  Corpus out;
  simdjson::dom::parser parser;
  const MappedFile mapped{fs::path(file)};
  const std::string_view all(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  for (size_t at = 0; at < all.size() && out.text.size() < most;) {
    const size_t end = std::min(all.find('\n', at), all.size());
    std::string_view text;
    require(!parser.parse(all.data() + at, end - at)["text"].get(text), "{}: a line without \"text\"", file);
    out.text += text;
    out.ends.push_back(out.text.size());
    at = end + 1;
  }
  return out;
}

double read_floor(const Corpus& corpus) {
  uint64_t sum = 0;
  const double start = seconds();
  for (size_t i = 0; i + 8 <= corpus.text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, corpus.text.data() + i, 8);
    sum += word;
  }
  volatile uint64_t sink = sum;
  (void)sink;
  return static_cast<double>(corpus.text.size()) / 1e6 / (seconds() - start);
}

// Ids of all documents, each thread taking the next run of documents; returns how many there were.
uint64_t encode_all(const Tokenizer& tokenizer, const Corpus& corpus, int threads) {
  std::atomic<size_t> next = 0;
  std::atomic<uint64_t> ids = 0;
  const auto work = [&] {
    std::vector<int32_t> out;
    uint64_t own = 0;
    for (size_t i; (i = next++) < corpus.ends.size();) {
      const size_t from = i ? corpus.ends[i - 1] : 0;
      out.clear();
      tokenizer.encode_append(std::string_view(corpus.text).substr(from, corpus.ends[i] - from), AddSpecial::no, out);
      own += out.size();
    }
    ids += own;
  };
  std::vector<std::thread> team;
  for (int t = 1; t < threads; ++t) team.emplace_back(work);
  work();
  for (auto& t : team) t.join();
  return ids;
}

int run(int count, char** arguments) {
  require(count >= 3, "usage: ponte-bench-tokenize TOKENIZER_DIR CORPUS.jsonl [--megabytes N] [--threads N] [--passes N]");
  double megabytes = 100;
  int threads = 1, passes = 3;
  for (int i = 3; i + 1 < count; i += 2) {
    const std::string_view flag = arguments[i];
    if (flag == "--megabytes") megabytes = std::stod(arguments[i + 1]);
    if (flag == "--threads") threads = std::stoi(arguments[i + 1]);
    if (flag == "--passes") passes = std::stoi(arguments[i + 1]);
  }
  const Corpus corpus = read_corpus(arguments[2], static_cast<size_t>(megabytes * 1e6));
  const double start = seconds();
  const Tokenizer tokenizer = Tokenizer::load(arguments[1]);
  std::printf("load %.1f ms; %zu documents, %.1f MB; reading the memory: %.0f MB/s\n", (seconds() - start) * 1e3, corpus.ends.size(),
              static_cast<double>(corpus.text.size()) / 1e6, read_floor(corpus));
  for (int pass = 0; pass < passes; ++pass) {
    const double from = seconds(), cpu = cpu_seconds();
    const uint64_t ids = encode_all(tokenizer, corpus, threads);
    const double took = seconds() - from;
    std::printf("pass %d (%s), %d threads: %.3f s, %.1f MB/s (%.1f MB per CPU second), %llu ids\n", pass + 1, pass ? "warm" : "cold", threads, took,
                static_cast<double>(corpus.text.size()) / 1e6 / took, static_cast<double>(corpus.text.size()) / 1e6 / (cpu_seconds() - cpu),
                    static_cast<unsigned long long>(ids));
  }
  return 0;
}

}  // namespace
}  // namespace ponte

int main(int count, char** arguments) {
  try {
    return ponte::run(count, arguments);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
