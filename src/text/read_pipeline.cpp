// Normalizers, pre-tokenizers, post-processors and decoders by their "type"; Sequence flattens into the list of its parts.
#include "text/read_pipeline.h"

#include "text/unicode.h"

namespace ponte {
namespace {

[[noreturn]] void unsupported(const JsonView& json, std::string_view what, std::string_view type) {
  fail("{}: {} '{}' is not supported", json.place(), what, type);
}

// Replace, of a normalizer or a decoder: a text or the matches of a regular expression.
template <class Step>
Step replace_step(const JsonView& json) {
  Step step{.kind = Step::Kind::replace};
  const JsonView pattern = json["pattern"];
  if (const auto regex = pattern.find("Regex")) {
    step.regex = std::make_shared<const Regex>(regex->string(), regex->place());
  } else {
    const JsonView text = pattern["String"];
    step.pattern = text.string();
    require(!step.pattern.empty(), "{}: an empty pattern", text.place());
  }
  step.content = json["content"].string();
  return step;
}

void normalizer_steps(const JsonView& json, std::vector<NormalizeStep>& steps) {
  using Kind = NormalizeStep::Kind;
  const std::string type(json["type"].string());
  if (type == "Sequence") json["normalizers"].each([&](const JsonView& part) { normalizer_steps(part, steps); });
  else if (type == "NFC") steps.push_back({Kind::nfc});
  else if (type == "NFD") steps.push_back({Kind::nfd});
  else if (type == "NFKC") steps.push_back({Kind::nfkc});
  else if (type == "NFKD") steps.push_back({Kind::nfkd});
  else if (type == "Replace") steps.push_back(replace_step<NormalizeStep>(json));
  else if (type == "Lowercase") steps.push_back({Kind::lowercase});
  else if (type == "StripAccents") steps.push_back({Kind::strip_accents});
  else if (type == "Nmt") steps.push_back({Kind::nmt});
  else if (type == "ByteLevel") steps.push_back({Kind::byte_level});
  else if (type == "Prepend") steps.push_back({Kind::prepend, {}, std::string(json["prepend"].string())});
  else if (type == "Strip") {
    if (json["strip_left"].boolean()) steps.push_back({Kind::strip_left});
    if (json["strip_right"].boolean()) steps.push_back({Kind::strip_right});
  } else unsupported(json, "normalizer", type);
}

SplitStep::Behavior behavior(const JsonView& json) {
  using B = SplitStep::Behavior;
  const std::string_view name = json.string();
  if (name == "Isolated" || name == "isolated") return B::isolated;
  if (name == "Removed" || name == "removed") return B::removed;
  if (name == "Contiguous" || name == "contiguous") return B::contiguous;
  if (name == "MergedWithPrevious" || name == "merged_with_previous") return B::merged_with_previous;
  if (name == "MergedWithNext" || name == "merged_with_next") return B::merged_with_next;
  unsupported(json, "split behavior", name);
}

SplitStep split_step(const JsonView& json) {
  SplitStep step{.finder = SplitStep::Finder::regex};
  const JsonView pattern = json["pattern"];
  if (const auto regex = pattern.find("Regex")) {
    step.pattern = regex->string();
    step.scan = find_scanner(regex->string());
    if (step.scan) step.finder = SplitStep::Finder::scanner;
    else step.regex.emplace(regex->string(), regex->place());
  } else {
    const JsonView text = pattern["String"];
    step.regex.emplace(Regex::literal(text.string(), text.place()));
  }
  step.behavior = behavior(json["behavior"]);
  step.invert = json.boolean_or("invert", false);
  return step;
}

SplitStep byte_level_step(const JsonView& json) {
  SplitStep step{.finder = SplitStep::Finder::scanner, .scan = find_scanner(kGpt2Pattern)};
  step.cuts = json.boolean_or("use_regex", true);
  if (json["add_prefix_space"].boolean()) step.prepend = SplitStep::Prepend::always, step.prefix = " ";
  step.spells = true;
  return step;
}

SplitStep metaspace_step(const JsonView& json) {
  SplitStep step{.finder = SplitStep::Finder::character, .behavior = SplitStep::Behavior::merged_with_next};
  step.replacement = step.prefix = json["replacement"].string();
  require(!step.replacement.empty() && unicode::decode(step.replacement.data()).bytes == step.replacement.size(),
          "{}: replacement '{}', wanted one character", json.place(), step.replacement);
  step.character = unicode::decode(step.replacement.data()).code;
  const std::string scheme = json.string_or("prepend_scheme", "always");
  const bool add_prefix = json.boolean_or("add_prefix_space", true);
  require(add_prefix || scheme == "never", "{}: add_prefix_space is false but prepend_scheme is '{}'", json.place(), scheme);
  if (scheme == "always") step.prepend = SplitStep::Prepend::always;
  else if (scheme == "first") step.prepend = SplitStep::Prepend::first;
  else if (scheme != "never") unsupported(json, "prepend_scheme", scheme);
  step.cuts = json.boolean_or("split", true);
  return step;
}

SplitStep digits_step(const JsonView& json) {
  const bool single = json.boolean_or("individual_digits", false);
  return {.finder = SplitStep::Finder::numeric, .behavior = single ? SplitStep::Behavior::isolated : SplitStep::Behavior::contiguous};
}

SplitStep punctuation_step(const JsonView& json) {
  const auto b = json.find("behavior");
  return {.finder = SplitStep::Finder::punctuation, .behavior = b ? behavior(*b) : SplitStep::Behavior::isolated};
}

SplitStep removed(SplitStep::Finder finder) { return {.finder = finder, .behavior = SplitStep::Behavior::removed}; }

void pre_tokenizer_steps(const JsonView& json, std::vector<SplitStep>& steps) {
  using Finder = SplitStep::Finder;
  const std::string type(json["type"].string());
  if (type == "Sequence") json["pretokenizers"].each([&](const JsonView& part) { pre_tokenizer_steps(part, steps); });
  else if (type == "Split") steps.push_back(split_step(json));
  else if (type == "ByteLevel") steps.push_back(byte_level_step(json));
  else if (type == "Digits") steps.push_back(digits_step(json));
  else if (type == "Punctuation") steps.push_back(punctuation_step(json));
  else if (type == "Metaspace") steps.push_back(metaspace_step(json));
  else if (type == "WhitespaceSplit") steps.push_back(removed(Finder::whitespace));
  else if (type == "Whitespace") {
    steps.push_back(removed(Finder::words));
    steps.back().invert = true;
  } else if (type == "BertPreTokenizer") {
    steps.push_back(removed(Finder::whitespace));
    steps.push_back({.finder = Finder::punctuation});
  } else if (type == "CharDelimiterSplit") {
    const JsonView delimiter = json["delimiter"];
    const std::string_view text = delimiter.string();
    require(!text.empty() && unicode::decode(text.data()).bytes == text.size(), "{}: delimiter '{}', wanted one character", delimiter.place(), text);
    steps.push_back(removed(Finder::character));
    steps.back().character = unicode::decode(text.data()).code;
  } else if (type == "FixedLength") {
    const int64_t length = json.integer_or("length", 5);
    require(length > 0, "{}: length {}, wanted at least 1", json.place(), length);
    steps.push_back({.finder = Finder::fixed_length});
    steps.back().length = static_cast<size_t>(length);
  } else {
    unsupported(json, "pre-tokenizer", type);
  }
}

// Consecutive splits that one scanner does together.
void fuse_steps(std::vector<SplitStep>& steps) {
  const auto is = [&](size_t i, std::string_view pattern) {
    return i < steps.size() && steps[i].pattern == pattern && steps[i].behavior == SplitStep::Behavior::isolated && !steps[i].invert;
  };
  for (size_t i = 0; i < steps.size(); ++i)
    if (is(i, kDeepSeekPatterns[0]) && is(i + 1, kDeepSeekPatterns[1]) && is(i + 2, kDeepSeekPatterns[2])) {
      steps.erase(steps.begin() + static_cast<std::ptrdiff_t>(i), steps.begin() + static_cast<std::ptrdiff_t>(i) + 2);
      steps[i] = SplitStep{.finder = SplitStep::Finder::scanner, .scan = scan_deepseek};
    }
}

void decoder_steps(const JsonView& json, std::vector<DecodeStep>& steps) {
  using Kind = DecodeStep::Kind;
  const std::string type(json["type"].string());
  if (type == "Sequence") json["decoders"].each([&](const JsonView& part) { decoder_steps(part, steps); });
  else if (type == "ByteLevel") steps.push_back({Kind::byte_level});
  else if (type == "ByteFallback") steps.push_back({Kind::byte_fallback});
  else if (type == "Fuse") steps.push_back({Kind::fuse});
  else if (type == "Replace") steps.push_back(replace_step<DecodeStep>(json));
  else if (type == "Strip")
    steps.push_back({.kind = Kind::strip, .content = std::string(json["content"].string()), .start = json["start"].integer(), .stop = json["stop"].integer()});
  else if (type == "Metaspace") {
    const bool never = json.string_or("prepend_scheme", "always") == "never" || !json.boolean_or("add_prefix_space", true);
    steps.push_back({.kind = Kind::metaspace, .pattern = std::string(json["replacement"].string()), .drops_first = !never});
  } else unsupported(json, "decoder", type);
}

int32_t token_id(const JsonView& json) {
  const int64_t id = json.integer();
  require(id >= 0 && id < (1 << 21), "{}: id {}", json.place(), id);
  return static_cast<int32_t>(id);
}

void template_pieces(const JsonView& json, Surroundings& out) {
  bool seen = false;
  json["single"].each([&](const JsonView& piece) {
    if (const auto sequence = piece.find("Sequence")) {
      require(!seen && (*sequence)["id"].string() == "A", "{}: a template for one text must hold the text once", piece.place());
      seen = true;
      return;
    }
    const JsonView name = piece["SpecialToken"]["id"];
    json["special_tokens"][name.string()]["ids"].each([&](const JsonView& id) { (seen ? out.after : out.before).push_back(token_id(id)); });
  });
  require(seen, "{}: the template for one text does not hold the text", json.place());
}

void trim(const JsonView& json, Surroundings& out) {
  if (json.boolean_or("trim_offsets", true)) out.trims.push_back({json.boolean_or("add_prefix_space", true), out.before.size()});
}

void post_processor(const JsonView& json, Surroundings& out) {
  const std::string type(json["type"].string());
  if (type == "Sequence") json["processors"].each([&](const JsonView& part) { post_processor(part, out); });
  else if (type == "TemplateProcessing") {
    Surroundings own;
    template_pieces(json, own);
    out.before.insert(out.before.begin(), own.before.begin(), own.before.end());
    out.after.insert(out.after.end(), own.after.begin(), own.after.end());
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    if (type == "RobertaProcessing") trim(json, out);
    const auto id = [&](std::string_view key) {
      const JsonView pair = json[key];
      require(pair.array().size() == 2, "{}: wanted a token and its id", pair.place());
      return token_id(pair.item(pair.array().at(1).value(), 1));
    };
    out.before.insert(out.before.begin(), id("cls"));
    out.after.push_back(id("sep"));
  } else if (type == "ByteLevel") {
    trim(json, out);
  } else {
    unsupported(json, "post-processor", type);
  }
}

}  // namespace

std::vector<NormalizeStep> read_normalizer(const JsonView& json) {
  std::vector<NormalizeStep> steps;
  normalizer_steps(json, steps);
  return steps;
}

PreTokenizerSpec read_pre_tokenizer(const JsonView& json) {
  PreTokenizerSpec spec;
  pre_tokenizer_steps(json, spec.steps);
  // When the alphabet comes last, words stay bytes and the vocabulary is read as bytes.
  if (!spec.steps.empty() && spec.steps.back().spells) {
    SplitStep& last = spec.steps.back();
    spec.byte_level = true;
    last.spells = false;
    if (!last.cuts && last.prepend == SplitStep::Prepend::never) spec.steps.pop_back();
  }
  fuse_steps(spec.steps);
  return spec;
}

std::vector<DecodeStep> read_decoder(const JsonView& json) {
  std::vector<DecodeStep> steps;
  decoder_steps(json, steps);
  return steps;
}

Surroundings read_post_processor(const JsonView& json) {
  Surroundings out;
  post_processor(json, out);
  return out;
}

}  // namespace ponte
