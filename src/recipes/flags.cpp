// The command line of a run.
#include "recipes/flags.h"

#include <algorithm>
#include <map>

#include "base/environment.h"
#include "base/errors.h"
#include "config/field.h"

namespace ponte {
namespace {

using Kind = FlagAlias::Kind;

// Keys whose bare name says too little to be a flag.
constexpr std::string_view kNotFlags[] = {"name", "kind", "order", "scheme", "dim", "alpha", "dropout", "output_dir"};

struct Flag {
  std::string sets;
  Kind kind = Kind::value;
};

std::string dashes(std::string text) {
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

// Every flag by name; an empty `sets` of a known name without an alias means that several sections have it.
const std::map<std::string, Flag, std::less<>>& flags() {
  static const std::map<std::string, Flag, std::less<>> all = [] {
    std::map<std::string, Flag, std::less<>> out;
    for (const Field& field : config_fields()) {
      if (field.role == FieldRole::internal || std::find(std::begin(kNotFlags), std::end(kNotFlags), field.key) != std::end(kNotFlags)) continue;
      const Kind kind = field.is_boolean ? Kind::boolean : field.is_list ? Kind::list : Kind::value;
      auto [it, fresh] = out.try_emplace(dashes(field.key), Flag{field.name() + "={}", kind});
      if (!fresh) it->second.sets += " " + field.name() + "={}";
    }
    for (const FlagAlias& alias : flag_aliases()) out[std::string(alias.flag)] = {std::string(alias.sets), alias.kind};
    return out;
  }();
  return all;
}

bool is_alias(std::string_view name) {
  return std::any_of(flag_aliases().begin(), flag_aliases().end(), [&](const FlagAlias& alias) { return alias.flag == name; });
}

bool is_flag(const std::string& word) { return word.size() > 1 && word[0] == '-' && !isdigit(static_cast<unsigned char>(word[1])) && word[1] != '.'; }

bool is_boolean_word(const std::string& word) {
  const std::string text = lower(word);
  return text == "true" || text == "false";
}

// A word for a list: quoted where YAML would read it otherwise.
std::string flow_list(const std::vector<std::string>& words) {
  std::string out = "[";
  for (const std::string& word : words) {
    if (out.size() > 1) out += ", ";
    std::string quoted = "'";
    for (char c : word) quoted += c == '\'' ? std::string("''") : std::string(1, c);
    double number;
    YamlValue value;
    value.kind = YamlValue::Kind::scalar;
    value.text = word;
    out += read_number(value, number) ? word : quoted + "'";
  }
  return out + "]";
}

// What other programs write for values of ours.
std::string translated(const std::string& flag, const std::string& target, const std::string& value) {
  if (target.starts_with("peft=") && (lower(value) == "full" || lower(value) == "none")) return "null";
  if (flag == "target-modules" && value == "['all-linear']") return "[linear_qkv, linear_proj, linear_fc1, linear_fc2]";
  if (flag == "recompute-granularity" && lower(value) == "none") return "null";
  return value;
}

class Reader {
 public:
  explicit Reader(const std::vector<std::string>& words) : words_(words) {}

  TrainArguments read() {
    while (at_ < words_.size()) {
      const std::string& word = words_[at_++];
      if (is_flag(word)) read_flag(word);
      else if (word.find('=') != std::string::npos) out_.request.overrides.push_back(word);
      else if (word.ends_with(".yaml") || word.ends_with(".yml")) out_.request.config_files.push_back(word);
      else fail("\"{}\" is neither a flag nor section.key=value; see ponte train --help", word);
    }
    if (out_.dry_run) out_.request.hf_files = HubFiles::tokenizer;
    out_.request.world_size = out_.nproc_per_node > 0 ? out_.nproc_per_node : launch_environment().world_size;
    return std::move(out_);
  }

 private:
  void read_flag(const std::string& word) {
    std::string name = word.substr(word.starts_with("--") ? 2 : 1);
    inline_value_.reset();
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      inline_value_ = name.substr(equals + 1);
      name.resize(equals);
    }
    // `--model.bf16=true` is section.key=value with dashes in front.
    if (name.find('.') != std::string::npos) {
      out_.request.overrides.push_back(name + "=" + take_value(name));
      return;
    }
    name = dashes(name);
    if (read_own_flag(name)) return;
    const auto it = flags().find(name);
    if (it == flags().end()) fail_unknown(name);
    const bool ambiguous = !is_alias(name) && it->second.sets.find(' ') != std::string::npos;
    require(!ambiguous, "--{} could be any of {}; write section.key=value", name, it->second.sets);
    apply(name, it->second);
  }

  [[noreturn]] static void fail_unknown(const std::string& name) {
    std::vector<std::string> names = {"recipe", "config-file", "hf-model", "revision", "layout", "dry-run", "device", "nproc-per-node", "max-restarts", "help"};
    for (const auto& [known, flag] : flags()) names.push_back(known);
    const std::string hint = nearest(name, names);
    fail("there is no flag --{}{}; see ponte train --help", name, hint.empty() ? "" : "; did you mean --" + hint + "?");
  }

  bool read_own_flag(const std::string& name) {
    RunRequest& request = out_.request;
    if (name == "recipe") request.recipe = take_value(name);
    else if (name == "hf-model" || name == "hf-model-path") request.hf_model = take_value(name);
    else if (name == "revision" || name == "hf-revision" || name == "model-revision") request.revision = take_value(name);
    else if (name == "layout") request.layout = take_value(name);
    else if (name == "config-file" || name == "config-files")
      for (std::string& file : take_list(name)) {
        const bool key = file.find('=') != std::string::npos && !fs::exists(file);  // of a section there is not, to be told so
        (key ? request.overrides : request.config_files).push_back(std::move(file));
      }
    else if (name == "dry-run") out_.dry_run = take_boolean();
    else if (name == "help" || name == "h") out_.help = true;
    else if (name == "device") out_.device = take_value(name);
    else if (name == "nproc-per-node") out_.nproc_per_node = take_count(name);
    else if (name == "max-restarts") out_.max_restarts = take_count(name);
    else if (name == "mode") read_mode(take_value(name));
    else if (name == "dataset") read_dataset(take_list(name));
    else return false;
    return true;
  }

  // Bridge's --mode; sft and pt are also command spellings of ms-swift.
  void read_mode(const std::string& mode) {
    if (mode == "sft") override_with("peft=null");
    else if (mode == "lora" || mode == "dora") override_with("peft=" + mode);
    else require(mode == "pretrain" || mode == "pt", "--mode can be pretrain, sft, lora or dora, not {}", mode);
  }

  // Bridge's dataset presets, and the data sets of ms-swift.
  void read_dataset(const std::vector<std::string>& names) {
    if (names.size() == 1 && names[0] == "mock") return override_with("dataset.kind=gpt"), override_with("dataset.data_path=[]");
    if (names.size() == 1 && names[0] == "megatron-indexed") return override_with("dataset.kind=gpt");
    override_with("dataset.kind=sft");
    if (!(names.size() == 1 && names[0] == "local-jsonl")) override_with("dataset.dataset_name=" + join(names, " "));
  }

  void apply(const std::string& name, const Flag& flag) {
    std::string value;
    if (flag.kind == Kind::list) {
      const std::vector<std::string> words = take_list(name);
      // One word over all layers is a number, an expression or a list, not an entry of one.
      value = name == "moe-layer-freq" && words.size() == 1 ? words[0] : flow_list(words);
    } else if (flag.kind == Kind::value) {
      value = take_value(name);
    } else {
      const bool on = take_boolean();
      if (flag.kind == Kind::switched && !on) return;
      value = on == (flag.kind != Kind::inverted) ? "true" : "false";
    }
    if (flag.sets.empty()) out_.without_effect.push_back("--" + name);
    for (const std::string& target : split(flag.sets, ' ')) {
      if (target.empty()) continue;
      std::string text = target;
      const std::string meant = translated(name, target, value);
      for (size_t hole; (hole = text.find("{}")) != std::string::npos;) text.replace(hole, 2, meant);
      if (text.starts_with("hf_model=")) out_.request.hf_model = text.substr(9);
      else override_with(text);
    }
  }

  void override_with(std::string text) { out_.request.overrides.push_back(std::move(text)); }

  std::string take_value(const std::string& name) {
    if (inline_value_) return *inline_value_;
    require(at_ < words_.size() && !is_flag(words_[at_]), "--{} wants a value", name);
    return words_[at_++];
  }

  std::vector<std::string> take_list(const std::string& name) {
    std::vector<std::string> out = {take_value(name)};
    while (!inline_value_ && at_ < words_.size() && !is_flag(words_[at_]) && !is_override(words_[at_])) out.push_back(words_[at_++]);
    return out;
  }

  // "section.key=value", as opposed to a path that happens to hold an equals sign.
  static bool is_override(const std::string& word) {
    const size_t equals = word.find('='), dot = word.find('.');
    if (equals == std::string::npos) return false;
    const std::string section = word.substr(0, std::min(equals, dot));
    const auto& sections = config_sections();
    return std::find(sections.begin(), sections.end(), section) != sections.end();
  }

  bool take_boolean() {
    if (inline_value_) {
      require(is_boolean_word(*inline_value_), "\"{}\" must be true or false", *inline_value_);
      return lower(*inline_value_) == "true";
    }
    if (at_ < words_.size() && is_boolean_word(words_[at_])) return lower(words_[at_++]) == "true";
    return true;
  }

  int64_t take_count(const std::string& name) {
    YamlValue value;
    value.kind = YamlValue::Kind::scalar;
    value.text = take_value(name);
    int64_t count = 0;
    require(read_integer(value, count) && count > 0 && count <= 1'000'000, "--{} must be a positive number, not {}", name, value.text);
    return count;
  }

  const std::vector<std::string>& words_;
  size_t at_ = 0;
  std::optional<std::string> inline_value_;
  TrainArguments out_;
};

}  // namespace

TrainArguments parse_train_arguments(const std::vector<std::string>& arguments) { return Reader(arguments).read(); }

std::string train_help() {
  std::string out =
      "usage: ponte train [flags] [section.key=value ...]\n\n"
      "Pretrains or fine-tunes a model. Later layers win: --recipe, --config-file in order, --hf-model, then the rest of the command line.\n\n"
      "  --recipe NAME            starting point; `ponte recipes list` shows all\n"
      "  --layout documentation   the recipe's parallel sizes as on Megatron Bridge's Qwen page\n"
      "  --config-file F.yaml     sections and keys as in `ponte recipes show NAME`; several may be given\n"
      "  --hf-model REF           architecture, tokenizer and weights of a folder or hub id; --revision for a branch or commit\n"
      "  --device D               auto (the default: a CUDA card where there is one), cpu, cuda or cuda:N; each local rank takes its own card\n"
      "  --nproc-per-node N       start N local ranks\n"
      "  --max-restarts N         start them again from the last checkpoint, at most N times, when one has died or hung\n"
      "  --dry-run                print the effective configuration, the origin of every value, and stop\n\n"
      "Every key is also a flag where its name is unambiguous: --train-iters 100 is train.train_iters=100. `-` and `_` are alike.\n"
      "docs/configuration.md lists all keys; other spellings:\n\n";
  std::string line = " ";
  for (const FlagAlias& alias : flag_aliases()) {
    const std::string item = " " + std::string(alias.flag.size() <= 3 ? "-" : "--") + std::string(alias.flag);
    if (line.size() + item.size() > 100) {
      out += line + "\n";
      line = " ";
    }
    line += item;
  }
  return out + line + "\n";
}

}  // namespace ponte
