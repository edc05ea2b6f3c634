#include "layout/pipeline_stages.h"

#include <algorithm>

#include "base/errors.h"
#include "base/format.h"

namespace ponte {
namespace {

constexpr size_t kLongestLayout = 100000;

// The repetition count after the '*' at `at`, which moves past it; 1 when there is none.
size_t repetitions(std::string_view text, size_t& at) {
  if (at >= text.size() || text[at] != '*') return 1;
  size_t count = 0, digits = 0;
  for (++at; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at, ++digits)
    count = std::min(count * 10 + static_cast<size_t>(text[at] - '0'), kLongestLayout + 1);
  require(digits > 0 && count > 0, "pipeline layout '{}': a number of repetitions belongs after '*'", text);
  return count;
}

void append(std::string& out, std::string_view piece, size_t count, std::string_view text) {
  require(out.size() + piece.size() * count <= kLongestLayout, "pipeline layout '{}': more than {} layers", text, kLongestLayout);
  for (size_t i = 0; i < count; ++i) out += piece;
}

// x*n written out, in text without parentheses.
std::string unrolled_letters(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const char letter = text[at++];
    require(std::string_view("EtmL|").find(letter) != std::string_view::npos, "pipeline layout '{}': '{}' is none of E, t, m, L, |, (, ), *", text, letter);
    append(out, {&letter, 1}, repetitions(text, at), text);
  }
  return out;
}

std::string unrolled(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '(') {
      const size_t end = std::min(text.find('(', at), text.size());
      append(out, text.substr(at, end - at), 1, text);
      at = end;
      continue;
    }
    const size_t close = text.find(')', at);
    require(close != std::string_view::npos, "pipeline layout '{}': a '(' without its ')'", text);
    const std::string inside = unrolled_letters(text.substr(at + 1, close - at - 1));
    at = close + 1;
    append(out, inside, repetitions(text, at), text);
  }
  return unrolled_letters(out);
}

int64_t count(std::string_view stage, char letter) { return std::count(stage.begin(), stage.end(), letter); }

PipelineSplit split_by_layout(const ModelConfig& c) {
  const std::vector<std::string> rows = parse_pipeline_layout(c.pipeline_model_parallel_layout);
  const int64_t stages = static_cast<int64_t>(rows.size()), ranks = c.pipeline_model_parallel_size;
  require(stages % ranks == 0, "model.pipeline_model_parallel_layout: {} stages do not divide over {} pipeline ranks", stages, ranks);
  const int64_t chunks = stages / ranks, asked = c.virtual_pipeline_model_parallel_size;
  require(asked == 0 || asked == chunks, "model.pipeline_model_parallel_layout: {} stages over {} ranks are {} chunks a rank, "
          "model.virtual_pipeline_model_parallel_size says {}", stages, ranks, chunks, asked);
  std::string flat;
  PipelineSplit out{ranks, chunks, {}};
  for (const std::string& row : rows) {
    out.stages.push_back({count(flat, 't'), count(row, 't'), count(row, 'E') > 0, count(row, 'L') > 0, count(row, 'm')});
    flat += row;
  }
  require(count(flat, 'E') == 1 && flat.front() == 'E' && count(flat, 'L') == 1 && flat.back() == 'L',
          "model.pipeline_model_parallel_layout: wanted one E, at the beginning, and one L, at the end");
  require(count(flat, 't') == c.num_layers, "model.pipeline_model_parallel_layout: {} decoder layers, the model has {}", count(flat, 't'), c.num_layers);
  require(count(flat, 'm') == c.mtp_num_layers, "model.pipeline_model_parallel_layout: {} prediction layers, the model has {}", count(flat, 'm'),
          c.mtp_num_layers);
  require(count(rows.back(), 'm') == c.mtp_num_layers && (c.mtp_num_layers == 0 || flat.find('m') > flat.rfind('t')),
          "model.pipeline_model_parallel_layout: prediction layers come after all decoder layers, in the stage of the loss, which they share");
  return out;
}

// Layers of each rank, embedding and loss counted where asked.
std::vector<int64_t> layers_of_ranks(const ModelConfig& c) {
  const int64_t ranks = c.pipeline_model_parallel_size, first = c.num_layers_in_first_pipeline_stage, last = c.num_layers_in_last_pipeline_stage;
  const int64_t counted = c.account_for_embedding_in_pipeline_split + c.account_for_loss_in_pipeline_split;
  require(counted == 0 || (first == 0 && last == 0),
          "pipeline: account_for_embedding/loss_in_pipeline_split and num_layers_in_first/last_pipeline_stage exclude "
          "each other");
  const int64_t rest = c.num_layers + counted - first - last, others = ranks - (first > 0) - (last > 0);
  require(rest >= 0 && (others > 0 ? rest % others == 0 : others == 0 && rest == 0),
          "pipeline: {} layers do not divide over {} stages (first stage {}, last stage {}, embedding and loss counted as {}): "
          "{} layers are left for {} stages",
          c.num_layers, ranks, first, last, counted, rest, others);
  std::vector<int64_t> out(static_cast<size_t>(ranks), others > 0 ? rest / others : 0);
  if (first > 0) out.front() = first;
  if (last > 0) out.back() = last;
  return out;
}

}  // namespace

std::vector<Stage> PipelineSplit::of_rank(int64_t rank) const {
  std::vector<Stage> out;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) out.push_back(at(rank, chunk));
  return out;
}

std::vector<std::string> parse_pipeline_layout(std::string_view text) {
  std::string bare;
  std::copy_if(text.begin(), text.end(), std::back_inserter(bare), [](char c) { return c != ','; });
  const std::string flat = unrolled(bare);
  require(!flat.empty(), "pipeline layout: it is empty");
  std::vector<std::string> out(1);
  for (const char c : flat) {
    if (c == '|') out.emplace_back();
    else out.back() += c;
  }
  return out;
}

PipelineSplit pipeline_split(const ModelConfig& c) {
  const int64_t ranks = c.pipeline_model_parallel_size, chunks = std::max<int64_t>(c.virtual_pipeline_model_parallel_size, 1);
  require(ranks > 0, "model.pipeline_model_parallel_size: {}, wanted at least 1", ranks);
  if (!c.pipeline_model_parallel_layout.empty()) return split_by_layout(c);
  require(chunks == 1 || ranks > 1, "model.virtual_pipeline_model_parallel_size: {} chunks want more than one pipeline rank", chunks);
  const std::vector<int64_t> layers = layers_of_ranks(c);
  PipelineSplit out{ranks, chunks, {}};
  int64_t next = 0;
  for (int64_t s = 0; s < ranks * chunks; ++s) {
    const int64_t own = layers[static_cast<size_t>(s % ranks)];
    require(own % chunks == 0, "pipeline: the {} layers of rank {} do not divide into {} chunks", own, s % ranks, chunks);
    Stage stage{next, own / chunks, s == 0, s == ranks * chunks - 1, s == ranks * chunks - 1 ? c.mtp_num_layers : 0};
    stage.layers -= (stage.embedding && c.account_for_embedding_in_pipeline_split) + (stage.loss && c.account_for_loss_in_pipeline_split);
    require(stage.layers >= 0, "pipeline: stage {} would have {} layers", s, stage.layers);
    next += stage.layers;
    out.stages.push_back(stage);
  }
  PONTE_ASSERT(next == c.num_layers);
  return out;
}

}  // namespace ponte
