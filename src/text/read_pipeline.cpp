// Normalizers, pre-tokenizers, post-processors and decoders by their "type"; Sequence flattens into the list of its parts.
#include "text/read_pipeline.h"

#include "text/unicode.h"

namespace ponte {
namespace {

[[noreturn]] void unsupported(const JsonView& json, std::string_view what, std::string_view type) {
  fail("{}: {} '{}' is not supported", json.place(), what, type);
}

// The literal text of {"String": ...}; patterns of regular expressions are for the caller that can use them.
std::string literal_pattern(const JsonView& json, std::string_view what) {
  const JsonView pattern = json["pattern"];
  if (const auto text = pattern.find("String")) {
    require(!text->string().empty(), "{}: an empty pattern", text->place());
    return std::string(text->string());
  }
  fail("{}: {} with a regular expression is not supported", json.place(), what);
}

void normalizer_steps(const JsonView& json, std::vector<NormalizeStep>& steps) {
  using Kind = NormalizeStep::Kind;
  const std::string type(json["type"].string());
  if (type == "Sequence") json["normalizers"].each([&](const JsonView& part) { normalizer_steps(part, steps); });
  else if (type == "NFC") steps.push_back({Kind::nfc});
  else if (type == "NFD") steps.push_back({Kind::nfd});
  else if (type == "NFKC") steps.push_back({Kind::nfkc});
  else if (type == "NFKD") steps.push_back({Kind::nfkd});
  else if (type == "Replace") steps.push_back({Kind::replace, literal_pattern(json, "normalizer Replace"), std::string(json["content"].string())});
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
  return step;
}

SplitStep metaspace_step(const JsonView& json) {
  SplitStep step{.finder = SplitStep::Finder::metaspace, .behavior = SplitStep::Behavior::merged_with_next};
  step.replacement = step.prefix = json["replacement"].string();
  require(!step.replacement.empty() && unicode::decode(step.replacement.data()).bytes == step.replacement.size(),
          "{}: replacement '{}', wanted one character", json.place(), step.replacement);
  const std::string scheme = json.string_or("prepend_scheme", "always");
  const bool add_prefix = json.boolean_or("add_prefix_space", true);
  require(add_prefix || scheme == "never", "{}: add_prefix_space is false but prepend_scheme is '{}'", json.place(), scheme);
  if (scheme == "always") step.prepend = SplitStep::Prepend::always;
  else if (scheme == "first") step.prepend = SplitStep::Prepend::first;
  else if (scheme != "never") unsupported(json, "prepend_scheme", scheme);
  step.cuts = json.boolean_or("split", true);
  return step;
}

void pre_tokenizer_steps(const JsonView& json, PreTokenizerSpec& spec) {
  const std::string type(json["type"].string());
  if (type == "Sequence") {
    json["pretokenizers"].each([&](const JsonView& part) { pre_tokenizer_steps(part, spec); });
    return;
  }
  require(!spec.byte_level, "{}: pre-tokenizer '{}' after ByteLevel is not supported", json.place(), type);
  if (type == "Split") {
    spec.steps.push_back(split_step(json));
  } else if (type == "ByteLevel") {
    SplitStep step = byte_level_step(json);
    if (step.cuts || step.prepend != SplitStep::Prepend::never) spec.steps.push_back(std::move(step));
    spec.byte_level = true;
  } else if (type == "Digits") {
    const bool single = json.boolean_or("individual_digits", false);
    spec.steps.push_back({.finder = SplitStep::Finder::numeric, .behavior = single ? SplitStep::Behavior::isolated : SplitStep::Behavior::contiguous});
  } else if (type == "Punctuation") {
    const auto b = json.find("behavior");
    spec.steps.push_back({.finder = SplitStep::Finder::punctuation, .behavior = b ? behavior(*b) : SplitStep::Behavior::isolated});
  } else if (type == "Metaspace") {
    spec.steps.push_back(metaspace_step(json));
  } else {
    unsupported(json, "pre-tokenizer", type);
  }
}

void decoder_steps(const JsonView& json, std::vector<DecodeStep>& steps) {
  using Kind = DecodeStep::Kind;
  const std::string type(json["type"].string());
  if (type == "Sequence") json["decoders"].each([&](const JsonView& part) { decoder_steps(part, steps); });
  else if (type == "ByteLevel") steps.push_back({Kind::byte_level});
  else if (type == "ByteFallback") steps.push_back({Kind::byte_fallback});
  else if (type == "Fuse") steps.push_back({Kind::fuse});
  else if (type == "Replace") steps.push_back({Kind::replace, literal_pattern(json, "decoder Replace"), std::string(json["content"].string())});
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

void post_processor(const JsonView& json, Surroundings& out) {
  const std::string type(json["type"].string());
  if (type == "Sequence") json["processors"].each([&](const JsonView& part) { post_processor(part, out); });
  else if (type == "TemplateProcessing") {
    Surroundings own;
    template_pieces(json, own);
    out.before.insert(out.before.begin(), own.before.begin(), own.before.end());
    out.after.insert(out.after.end(), own.after.begin(), own.after.end());
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    const auto id = [&](std::string_view key) {
      const JsonView pair = json[key];
      require(pair.array().size() == 2, "{}: wanted a token and its id", pair.place());
      return token_id(pair.item(pair.array().at(1).value(), 1));
    };
    out.before.insert(out.before.begin(), id("cls"));
    out.after.push_back(id("sep"));
  } else if (type != "ByteLevel") {  // ByteLevel only moves offsets
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
  pre_tokenizer_steps(json, spec);
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
