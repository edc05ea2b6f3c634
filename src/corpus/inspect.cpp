#include "corpus/inspect.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>

#include "base/environment.h"
#include "base/errors.h"
#include "base/progress.h"
#include "corpus/staged_pair.h"
#include "format/indexed_dataset.h"
#include "hub/hub.h"
#include "text/tokenizer.h"

namespace ponte {
namespace {

struct Lengths {
  int64_t shortest = 0, longest = 0, empty_documents = 0;
  std::vector<int64_t> by_power;  // [k]: lengths in [2^k, 2^(k+1)), 0 counted with 1
};

Lengths survey(const IndexedDataset& dataset) {
  Lengths out;
  out.shortest = dataset.sequences() ? INT64_MAX : 0;
  for (int64_t i = 0; i < dataset.sequences(); ++i) {
    const int64_t length = dataset.sequence_length(i);
    out.shortest = std::min(out.shortest, length);
    out.longest = std::max(out.longest, length);
    const auto power = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(length, 1))) - 1);
    if (out.by_power.size() <= power) out.by_power.resize(power + 1);
    ++out.by_power[power];
  }
  for (int64_t d = 0; d < dataset.documents(); ++d) out.empty_documents += dataset.document_index(d) == dataset.document_index(d + 1);
  return out;
}

std::string histogram(const Lengths& lengths) {
  std::string out = "sequence lengths (tokens)\n";
  const int64_t most = lengths.by_power.empty() ? 1 : *std::max_element(lengths.by_power.begin(), lengths.by_power.end());
  const auto shortest = std::find_if(lengths.by_power.begin(), lengths.by_power.end(), [](int64_t count) { return count > 0; });
  for (auto power = static_cast<size_t>(shortest - lengths.by_power.begin()); power < lengths.by_power.size(); ++power) {
    const int64_t count = lengths.by_power[power];
    std::string bar;
    for (int64_t i = 0; i < (count * 40 + most - 1) / most; ++i) bar += "█";
    out += format("{:>10} - {:<10} {:>10}  {}\n", int64_t{1} << power, (int64_t{2} << power) - 1, count, bar);
  }
  return out;
}

std::string shown_tokens(std::span<const int32_t> ids, const std::optional<Tokenizer>& tokenizer) {
  std::string out;
  if (!tokenizer) {
    for (int32_t id : ids) out += format("{} ", id);
    return out;
  }
  if (!stdout_is_terminal()) return tokenizer->decode(ids);
  constexpr const char* colours[] = {"\033[30;46m", "\033[30;43m"};
  StreamDecoder decoder(*tokenizer, SkipSpecial::no);
  for (size_t i = 0; i < ids.size(); ++i) {
    out += colours[i % 2];
    out += decoder.push(ids[i]);
    out += "\033[0m";
  }
  return out + decoder.finish();
}

std::string show_document(const IndexedDataset& dataset, int64_t document, const std::optional<Tokenizer>& tokenizer, int64_t max_tokens) {
  require(document >= 0 && document < dataset.documents(), "{}: document {} of {}", dataset.prefix(), document, dataset.documents());
  const int64_t first = dataset.document_index(document), last = dataset.document_index(document + 1);
  int64_t total = 0, room = max_tokens;
  std::vector<int32_t> ids;
  for (int64_t s = first; s < last; ++s) {
    const int64_t length = dataset.sequence_length(s), take = std::min(room, length);
    total += length;
    std::vector<int32_t> part(static_cast<size_t>(std::max<int64_t>(take, 0)));
    dataset.read(s, 0, part);
    ids.insert(ids.end(), part.begin(), part.end());
    room -= take;
  }
  return format("\ndocument {}: {} {}, {} tokens\n{}{}\n", document, last - first, last - first == 1 ? "sequence" : "sequences", total, shown_tokens(ids, tokenizer),
                total > max_tokens ? " ..." : "");
}

std::vector<fs::path> expand(const std::vector<fs::path>& inputs) {
  std::vector<fs::path> out;
  for (const fs::path& input : inputs) {
    if (!fs::is_directory(input)) {
      out.push_back(input.extension() == ".bin" || input.extension() == ".idx" ? fs::path(input).replace_extension() : input);
      continue;
    }
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(input))
      if (entry.path().extension() == ".idx") found.push_back(fs::path(entry.path()).replace_extension());
    require(!found.empty(), "{}: no .idx files in this folder", input);
    std::sort(found.begin(), found.end());
    out.insert(out.end(), found.begin(), found.end());
  }
  return out;
}

}  // namespace

std::string inspect_dataset(const fs::path& prefix, const std::string& tokenizer_ref, const InspectOptions& options) {
  const IndexedDataset dataset(prefix);
  dataset.verify();  // what follows walks lengths and boundaries as the file gives them
  std::optional<Tokenizer> tokenizer;
  if (!tokenizer_ref.empty()) tokenizer = Tokenizer::load(resolve_tokenizer(tokenizer_ref));
  const Lengths lengths = survey(dataset);
  const double mean = dataset.sequences() ? static_cast<double>(dataset.total_tokens()) / static_cast<double>(dataset.sequences()) : 0.0;
  std::string out = format("{}\n  {} documents ({} empty), {} sequences, {} tokens as {}; .bin {}, .idx {}\n  lengths {} to {}, mean {:.1f}\n\n",
                           prefix, dataset.documents(), lengths.empty_documents, dataset.sequences(), dataset.total_tokens(),
                           safetensors_name(dataset.dtype()), human_bytes(fs::file_size(bin_path(prefix))),
                           human_bytes(fs::file_size(idx_path(prefix))), lengths.shortest, lengths.longest, mean);
  out += histogram(lengths);
  std::vector<int64_t> documents = options.documents;
  if (documents.empty() && dataset.documents() > 0) documents = {0};
  for (int64_t document : documents) out += show_document(dataset, document, tokenizer, options.max_tokens);
  return out;
}

std::string merge_datasets(const std::vector<fs::path>& inputs, const fs::path& output, OnExisting existing) {
  const std::vector<fs::path> prefixes = expand(inputs);
  std::vector<IndexedDataset> datasets;
  int64_t total = 0;
  for (const fs::path& prefix : prefixes) {
    datasets.emplace_back(prefix);
    require(datasets.back().dtype() == datasets.front().dtype(),
            "{}: ids are {}, but {} in {}: preprocessed for vocabularies of different size", prefix,
            safetensors_name(datasets.back().dtype()), safetensors_name(datasets.front().dtype()), prefixes.front());
    total += datasets.back().total_tokens() * dtype_bytes(datasets.front().dtype());
  }
  if (existing == OnExisting::refuse) require_no_pair(output);
  const fs::path folder = work_folder(output, "merge");
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::shared_ptr<void> at_exit(nullptr, [&](void*) { fs::remove_all(folder); });  // a full disk gets its room back
  Progress progress("merging", static_cast<uint64_t>(total), Progress::Unit::bytes);
  IndexedDatasetWriter writer(folder / "joined", datasets.front().dtype());
  for (const IndexedDataset& dataset : datasets) {
    writer.add_dataset(dataset);
    progress.advance(static_cast<uint64_t>(dataset.total_tokens() * dtype_bytes(dataset.dtype())));
  }
  writer.finalize();
  publish_pair(folder / "joined", output);
  const auto& p = writer.position();
  return format("{}: {} documents, {} sequences, {} tokens from {} corpora", output, p.documents, p.sequences, p.tokens, prefixes.size());
}

}  // namespace ponte
