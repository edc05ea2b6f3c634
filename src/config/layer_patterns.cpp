// The two rules of one number over layers, the expressions that stand for lists, and the configuration they are said in.
#include "config/layer_patterns.h"

#include <charconv>
#include <utility>

#include "base/errors.h"
#include "config/document.h"

namespace ponte {
namespace {

// Recursive descent over   sum = product {"+" product}   product = term {"*" term}   term = integer | "[" [sum {"," sum} [","]] "]" | "(" sum ")"
class LayerExpression {
 public:
  LayerExpression(std::string_view text, std::string_view subject) : text_(text), subject_(subject) {
    check(text.size() <= 4096, "no more than 4096 characters");
  }

  std::vector<int64_t> read() {
    Value out = sum();
    check(peek() == '\0' && at_ >= text_.size(), "an operator or the end");
    check(out.is_list, "a list in the end");
    return std::move(out.list);
  }

 private:
  struct Value {
    bool is_list = false;
    int64_t number = 0;
    std::vector<int64_t> list;
  };

  void check(bool right, std::string_view wanted) const {
    require(right, "{}: '{}' is no list of layers as Megatron-LM's \"([0]+[1]*23)\": wanted {} at character {}", subject_,
            text_.size() <= 120 ? std::string(text_) : std::string(text_.substr(0, 120)) + "...", wanted, at_ + 1);
  }
  char peek() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }

  Value sum() {
    check(++depth_ <= kMaxDepth, "no more than 64 levels");
    Value out = product();
    while (take('+')) {
      const Value more = product();
      check(out.is_list == more.is_list, "two lists or two numbers around '+'");
      if (out.is_list) out.list.insert(out.list.end(), more.list.begin(), more.list.end());
      out.number += more.number;
      check_size(out);
    }
    --depth_;
    return out;
  }
  Value product() {
    Value out = term();
    while (take('*')) {
      Value times = term();
      check(!(out.is_list && times.is_list), "a number on one side of '*'");
      if (times.is_list) std::swap(out, times);
      if (out.is_list) repeat(out.list, times.number);
      out.number *= times.number;
      check_size(out);
    }
    return out;
  }
  Value term() {
    Value out;
    if (take('(')) {
      out = sum();
      check(take(')'), "')'");
    } else if (take('[')) {
      out.is_list = true;
      while (!take(']')) {
        check(out.list.empty() || take(','), "',' or ']'");
        if (!out.list.empty() && take(']')) break;
        const Value element = sum();
        check(!element.is_list, "a number in a list");
        out.list.push_back(element.number);
      }
    } else {
      peek();
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), out.number);
      check(error == std::errc() && out.number >= 0, "a list, '(' or a number");
      at_ = static_cast<size_t>(end - text_.data());
      check_size(out);
    }
    return out;
  }
  void repeat(std::vector<int64_t>& list, int64_t times) const {
    check(std::ssize(list) * times <= kMaxLayers, "no more than 65536 layers");
    const size_t once = list.size();
    list.resize(once * static_cast<size_t>(times));
    for (size_t i = once; i < list.size(); ++i) list[i] = list[i - once];
  }
  void check_size(const Value& value) const {
    check(std::ssize(value.list) <= kMaxLayers && value.number <= kMaxLayers, "no more than 65536 layers");
  }

  static constexpr int64_t kMaxLayers = 65536;
  static constexpr int kMaxDepth = 64;
  std::string_view text_, subject_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::vector<int64_t> layer_expression(std::string_view text, std::string_view subject) { return LayerExpression(text, subject).read(); }

std::vector<int64_t> periodic_expert_layers(int64_t num_layers, int64_t every) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < num_layers; ++i) out.push_back(i % every == 0 ? 1 : 0);
  return out;
}

std::vector<std::string> periodic_layer_types(int64_t num_layers, int64_t every) {
  std::vector<std::string> out;
  for (int64_t i = 0; i < num_layers; ++i) out.push_back((i + 1) % every == 0 ? "full_attention" : "linear_attention");
  return out;
}

void write_out_layer_patterns(ConfigDraft& draft) {
  ModelConfig& m = draft.config.model;
  const bool experts = draft.moe_layer_interval && m.num_moe_experts;
  const bool mixers = m.linear_attention_freq && m.layer_types.empty() && !m.experimental_attention_variant.empty();
  require(!(experts || mixers) || m.num_layers <= 65536, "model.num_layers is {}, wanted at most 65536", m.num_layers);
  if (experts) m.moe_layer_freq = periodic_expert_layers(m.num_layers, draft.moe_layer_interval);
  if (mixers) m.layer_types = periodic_layer_types(m.num_layers, m.linear_attention_freq);
  if (mixers) draft.origins["model.layer_types"] = draft.origins["model.linear_attention_freq"];
}

}  // namespace ponte
