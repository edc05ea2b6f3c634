// Split strings, blends and masks: the small rules around the sample orders.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/errors.h"
#include "corpus/gpt_dataset.h"
#include "corpus/numpy_random.h"

namespace ponte {
namespace {

// As Python's float(): the whole word or nothing.
std::optional<double> number(std::string_view word) {
  const std::string text(word);
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || end != text.c_str() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

SampleOrder sample_order_from_user(std::string_view name) {
  if (name == "megatron") return SampleOrder::megatron;
  if (name == "permutation") return SampleOrder::permutation;
  fail("sample order '{}': wanted megatron or permutation", name);
}

std::string_view split_name(Split split) {
  constexpr std::string_view names[] = {"train", "valid", "test"};
  return names[static_cast<size_t>(split)];
}

SplitMatrix parse_split(std::string_view text) {
  std::vector<double> shares;
  for (size_t at = 0; (at = text.find_first_of(".0123456789", at)) != text.npos;) {
    const size_t end = std::min(text.find_first_not_of(".0123456789", at), text.size());
    const auto value = number(text.substr(at, end - at));
    require(value.has_value(), "split '{}': '{}' is not a number", text, text.substr(at, end - at));
    shares.push_back(*value);
    at = end;
  }
  require(!shares.empty() && shares.size() <= 3, "split '{}': {} numbers, wanted up to three for train, valid and test, as in '9999,8,2'",
          text, shares.size());
  require(text.find('-') == text.npos, "split '{}': shares cannot be negative", text);
  shares.resize(3, 0.0);
  const double sum = numpy_sum(shares);
  require(std::isfinite(sum) && sum > 0, "split '{}': the shares add up to {}", text, sum);
  SplitMatrix matrix;
  double begin = 0;
  for (size_t i = 0; i < 3; ++i) {
    const double end = begin + shares[i] / sum;
    if (end > begin) matrix[i] = {begin, end};
    begin = end;
  }
  return matrix;
}

Blend parse_blend(const std::vector<std::string>& words) {
  require(!words.empty(), "data_path: empty, wanted 'prefix ...' or 'weight prefix weight prefix ...'");
  Blend blend{words, std::nullopt};
  if (words.size() % 2 == 0) {
    std::vector<double> weights;
    std::vector<std::string> prefixes;
    for (size_t i = 0; i < words.size(); i += 2) {
      if (const auto weight = number(words[i])) weights.push_back(*weight);
      prefixes.push_back(words[i + 1]);
    }
    require(weights.empty() || weights.size() == prefixes.size(), "data_path {}: some entries have a weight in front and some do not",
            words);
    if (!weights.empty()) blend = {prefixes, weights};
  }
  if (blend.weights)
    for (size_t i = 0; i < blend.prefixes.size(); ++i)
      require(std::isfinite((*blend.weights)[i]) && (*blend.weights)[i] > 0, "data_path: weight {} of {}, wanted a positive number",
              (*blend.weights)[i], blend.prefixes[i]);
  return blend;
}

void position_ids_from_eod(std::span<const int32_t> inputs, int32_t eod_id, std::span<int32_t> out) {
  PONTE_ASSERT(out.size() == inputs.size());
  int32_t position = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    out[i] = position++;
    if (inputs[i] == eod_id) position = 0;
  }
}

std::vector<int32_t> segment_starts(std::span<const int32_t> inputs, int32_t eod_id) {
  std::vector<int32_t> starts = {0};
  for (size_t i = 0; i + 1 < inputs.size(); ++i)
    if (inputs[i] == eod_id) starts.push_back(static_cast<int32_t>(i + 1));
  return starts;
}

}  // namespace ponte
