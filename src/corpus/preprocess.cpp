#include "corpus/preprocess.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>

#include "base/environment.h"
#include "base/errors.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/progress.h"
#include "corpus/encode_block.h"
#include "corpus/ordered_pipeline.h"
#include "corpus/preprocess_state.h"
#include "corpus/staged_pair.h"
#include "hub/hub.h"

namespace ponte {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kBytesInFlight = uint64_t{96} << 20;  // of input text between the reader and the writer
constexpr int64_t kProblemsShown = 20;

fs::path key_prefix(const PreprocessOptions& options, const std::string& key) {
  return format("{}_{}_document", options.output_prefix, key);
}

void check(const PreprocessOptions& options, const std::vector<InputFile>& files) {
  require(!options.output_prefix.empty(), "--output-prefix: nothing given");
  require(!options.json_keys.empty(), "--json-keys: nothing given");
  const std::set<std::string> distinct(options.json_keys.begin(), options.json_keys.end());
  require(distinct.size() == options.json_keys.size(), "--json-keys {}: a key is named twice", options.json_keys);
  for (const std::string& key : options.json_keys)
    require(!key.empty() && key.find('/') == key.npos, "--json-keys '{}': cannot be part of a file name", key);
  require(options.workers >= 0 && options.partitions >= 1 && options.max_docs >= 0,
          "--workers {}, --partitions {}, --max-docs {}: wanted positive numbers", options.workers, options.partitions, options.max_docs);
  require(options.max_document_bytes >= 1 && options.max_document_bytes < uint64_t{1} << 32,
          "--max-document-bytes {}: wanted 1 to 4294967295", options.max_document_bytes);
  for (const InputFile& file : files)
    require(options.json_keys.size() == 1 || format_of(file.path, options.format) != InputFormat::text,
            "{}: plain text has no keys; --json-keys {} fit JSON lines and Parquet", file.path, options.json_keys);
}

// Everything the output depends on.
std::string identity_of(const PreprocessOptions& o, const std::vector<InputFile>& files, const fs::path& tokenizer) {
  std::string text = format("1 keys={} eod={} special={} partitions={} max_docs={} max_bytes={} format={} unit={}\n", o.json_keys,
                            o.append_eod, o.add_special_tokens, o.partitions, o.max_docs, o.max_document_bytes, o.format, o.text_unit);
  for (const InputFile& file : files) text += file.identity + "\n";
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"})
    if (fs::exists(tokenizer / name)) text += sha256(MappedFile(tokenizer / name).bytes()) + "\n";
  return content_hash(std::as_bytes(std::span(text)));
}

// Lets the reader wait until all it has handed out is written: with --max-docs, files of the hub are only fetched once it is known that
// they are needed.
class Catching {
 public:
  void handed_out() {
    std::lock_guard lock(mutex_);
    ++ahead_;
  }
  void written() {
    std::lock_guard lock(mutex_);
    --ahead_;
    changed_.notify_all();
  }
  void stop() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }
  bool caught_up() {  // false: stopped
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || ahead_ == 0; });
    return !stopped_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t ahead_ = 0;
  bool stopped_ = false;
};

// One run: the ordered end of the pipeline, which alone touches files and state.
class Run {
 public:
  Run(const PreprocessOptions& options, std::vector<InputFile> files)
      : options_(options),
        files_(std::move(files)),
        tokenizer_folder_(resolve_tokenizer(options.tokenizer_model)),
        tokenizer_(Tokenizer::load(tokenizer_folder_)),
        folder_(options.output_prefix),
        identity_(identity_of(options, files_, tokenizer_folder_)) {
    for (const InputFile& file : files_) total_bytes_ += file.size;
  }

  PreprocessSummary run() {
    const auto start = Clock::now();
    open();
    if (!state_.finished) {
      encode_all();
      finish();
    }
    publish();
    return summary(std::chrono::duration<double>(Clock::now() - start).count());
  }

 private:
  size_t part_count() const { return options_.json_keys.size() * static_cast<size_t>(options_.partitions); }

  void open() {
    encode_.tokenizer = &tokenizer_;
    encode_.dtype = token_dtype(tokenizer_.vocab_size());
    encode_.add_special = options_.add_special_tokens ? AddSpecial::yes : AddSpecial::no;
    encode_.preprocess = options_;
    if (options_.append_eod) {
      require(tokenizer_.eos_id().has_value(), "--append-eod: {} names no end-of-sequence token", tokenizer_folder_);
      encode_.eod_id = *tokenizer_.eos_id();
    }
    const auto earlier = folder_.load(identity_);
    if (!options_.overwrite && !(earlier && earlier->finished))
      for (const std::string& key : options_.json_keys) require_no_pair(key_prefix(options_, key));
    if (earlier) {
      state_ = *earlier;
      resumed_ = true;
      log_info("going on after {} documents of an interrupted run", state_.documents);
    }
    state_.parts.resize(part_count());
    if (state_.finished) return;
    for (size_t i = 0; i < part_count(); ++i)
      parts_.push_back(
          std::make_unique<IndexedDatasetWriter>(folder_.part(i), encode_.dtype, earlier ? std::optional(state_.parts[i]) : std::nullopt));
  }

  void encode_all() {
    Catching catching;
    TextBlockReader reader(
        {.files = files_, .preprocess = options_, .may_fetch = [&] { return options_.max_docs == 0 || (catching.caught_up() && !done()); }},
        state_.place);
    const int64_t workers = options_.workers ? options_.workers : default_threads();
    OrderedPipeline<TextBlock, EncodedBlock> pipeline(
        {.read =
             [&](TextBlock& block) {
               if (!reader.next(block)) return false;
               catching.handed_out();
               return true;
             },
         .make_worker =
             [&] {
               auto encoder = std::make_shared<BlockEncoder>(encode_);
               return [encoder](TextBlock& block) { return encoder->encode(block); };
             },
         .bytes = [](const TextBlock& block) { return block.bytes.size(); }},
        workers, kBytesInFlight);
    const std::shared_ptr<void> at_exit(nullptr, [&](void*) { catching.stop(); });  // before the pipeline waits for its reader
    Progress progress("preprocessing", total_bytes_, Progress::Unit::bytes);
    progress.already_done(state_.compressed_total);
    const auto start = Clock::now();
    uint64_t shard_begin = state_.text_bytes;
    int64_t tokens_before = tokens();
    for (EncodedBlock block; !done() && pipeline.next(block);) {
      const uint64_t consumed = block.compressed_total - state_.compressed_total;
      write(block);
      catching.written();
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      progress.set_note(format("{:.1f} M tokens/s", static_cast<double>(tokens() - tokens_before) / std::max(seconds, 1e-3) / 1e6));
      progress.advance(consumed);
      log_interval(seconds);
      if (state_.text_bytes - shard_begin >= options_.shard_bytes) {
        save();
        shard_begin = state_.text_bytes;
      }
    }
  }

  bool done() const { return options_.max_docs > 0 && state_.documents >= options_.max_docs; }

  int64_t tokens() const {
    int64_t out = 0;
    for (const auto& part : parts_) out += part->position().tokens;
    return out;
  }

  void write(const EncodedBlock& block) {
    for (const LineProblem& problem : block.problems) {
      const std::string where = format("{}:{}: {}", files_[static_cast<size_t>(block.file)].path, problem.line, problem.what);
      require(options_.on_error == OnError::skip, "{} (--on-error skip passes over such documents)", where);
      if (state_.skipped++ < kProblemsShown) log_warning("skipped {}", where);
    }
    const auto whole = static_cast<int64_t>(block.keys[0].sequences_per_document.size());
    const int64_t take = options_.max_docs > 0 ? std::min(whole, options_.max_docs - state_.documents) : whole;
    for (size_t k = 0; k < block.keys.size(); ++k) write_documents(block.keys[k], k, static_cast<size_t>(take));
    state_.documents += take;
    state_.blank += block.blank;
    state_.place = block.next;
    state_.text_bytes += block.text_bytes;
    state_.compressed_total = block.compressed_total;
  }

  void write_documents(const EncodedDocuments& documents, size_t key, size_t take) {
    const auto partitions = static_cast<size_t>(options_.partitions), width = static_cast<size_t>(dtype_bytes(encode_.dtype));
    const auto all = std::span(documents.sequences_per_document);
    if (partitions == 1 && take == all.size()) return parts_[key]->add_encoded(documents.ids, documents.lengths, all);
    size_t sequence = 0, byte = 0;
    for (size_t d = 0; d < take; ++d) {
      const auto lengths = std::span(documents.lengths).subspan(sequence, static_cast<size_t>(all[d]));
      size_t bytes = 0;
      for (int32_t length : lengths) bytes += static_cast<size_t>(length) * width;
      const size_t partition = static_cast<size_t>(state_.documents + static_cast<int64_t>(d)) % partitions;
      parts_[key * partitions + partition]->add_encoded(std::span(documents.ids).subspan(byte, bytes), lengths, all.subspan(d, 1));
      sequence += lengths.size();
      byte += bytes;
    }
  }

  void log_interval(double seconds) {
    if (options_.log_interval == 0 || state_.documents / options_.log_interval == logged_) return;
    logged_ = state_.documents / options_.log_interval;
    log_info("processed {} documents ({:.0f} docs/s, {:.1f} MB/s, {} tokens)", state_.documents,
             static_cast<double>(state_.documents) / seconds, static_cast<double>(state_.text_bytes) / seconds / 1e6, tokens());
  }

  // A shard's end: first the ids are on disk, then the state that counts on them.
  void save() {
    for (size_t i = 0; i < parts_.size(); ++i) {
      parts_[i]->flush();
      state_.parts[i] = parts_[i]->position();
    }
    folder_.save(identity_, state_);
  }

  fs::path joined(size_t key) const { return options_.partitions == 1 ? folder_.part(key) : folder_.path() / format("joined{}", key); }

  void finish() {
    save();
    const auto partitions = static_cast<size_t>(options_.partitions);
    for (auto& part : parts_) part->finalize();
    for (size_t k = 0; partitions > 1 && k < options_.json_keys.size(); ++k) {
      IndexedDatasetWriter writer(joined(k), encode_.dtype);
      for (size_t p = 0; p < partitions; ++p) writer.add_dataset(IndexedDataset(folder_.part(k * partitions + p)));
      writer.finalize();
    }
    state_.finished = true;
    folder_.save(identity_, state_);
  }

  void publish() {
    for (size_t k = 0; k < options_.json_keys.size(); ++k) publish_pair(joined(k), key_prefix(options_, options_.json_keys[k]));
    folder_.remove();
    for (const std::string& key : options_.json_keys)
      require(fs::exists(idx_path(key_prefix(options_, key))), "{}: gone since an earlier run had finished it; the same command will write it anew",
              idx_path(key_prefix(options_, key)));
  }

  PreprocessSummary summary(double seconds) const {
    PreprocessSummary out;
    const auto partitions = static_cast<size_t>(options_.partitions);
    for (size_t k = 0; k < options_.json_keys.size(); ++k) {
      PreprocessSummary::Output output{key_prefix(options_, options_.json_keys[k])};
      for (size_t p = 0; p < partitions; ++p) {
        const auto& part = state_.parts[k * partitions + p];
        output.documents += part.documents, output.sequences += part.sequences, output.tokens += part.tokens;
      }
      out.outputs.push_back(output);
    }
    out.skipped = state_.skipped;
    out.blank = state_.blank;
    out.text_bytes = state_.text_bytes;
    out.seconds = seconds;
    out.resumed = resumed_;
    return out;
  }

  const PreprocessOptions options_;
  const std::vector<InputFile> files_;
  const fs::path tokenizer_folder_;
  const Tokenizer tokenizer_;
  PreprocessFolder folder_;
  const std::string identity_;
  uint64_t total_bytes_ = 0;
  EncodeOptions encode_;
  PreprocessState state_;
  std::vector<std::unique_ptr<IndexedDatasetWriter>> parts_;
  int64_t logged_ = 0;
  bool resumed_ = false;
};

}  // namespace

PreprocessSummary preprocess(const PreprocessOptions& options) {
  // Blocks come and go by the megabyte: memory handed back to the kernel each time would be cleared page by page before its next use.
  ::mallopt(M_MMAP_THRESHOLD, 16 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 64 << 20);
  auto files = input_files(options);
  check(options, files);
  return Run(options, std::move(files)).run();
}

}  // namespace ponte
