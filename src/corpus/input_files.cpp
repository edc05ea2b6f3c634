#include "corpus/input_files.h"

#include <glob.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <memory>

#include "base/errors.h"
#include "base/log.h"
#include "hub/download.h"

namespace ponte {
namespace {

constexpr std::string_view kJsonSuffixes[] = {".jsonl", ".json", ".ndjson"}, kTextSuffixes[] = {".txt", ".text"};

bool is_one_of(std::string_view suffix, std::span<const std::string_view> all) {
  return std::find(all.begin(), all.end(), suffix) != all.end();
}

// The suffix that tells the format: "c4.jsonl.gz" -> ".jsonl".
std::string telling_suffix(const fs::path& file) {
  const std::string last = lower(file.extension().string());
  return last == ".gz" || last == ".zst" ? lower(file.stem().extension().string()) : last;
}

bool is_known(const fs::path& file) {
  const std::string suffix = telling_suffix(file);
  return is_one_of(suffix, kJsonSuffixes) || is_one_of(suffix, kTextSuffixes) || suffix == ".parquet";
}

void add_folder(const fs::path& folder, std::vector<fs::path>& out) {
  const size_t before = out.size();
  for (const auto& entry : fs::recursive_directory_iterator(folder, fs::directory_options::follow_directory_symlink))
    if (entry.is_regular_file() && is_known(entry.path())) out.push_back(entry.path());
  require(out.size() > before, "{}: no .jsonl, .json, .txt or .parquet files (plain, .gz or .zst) in this folder", folder);
  std::sort(out.begin() + static_cast<std::ptrdiff_t>(before), out.end());
}

void add_pattern(const std::string& pattern, std::vector<fs::path>& out) {
  glob_t found;
  const int code = ::glob(pattern.c_str(), 0, nullptr, &found);  // in name order
  for (size_t i = 0; code == 0 && i < found.gl_pathc; ++i) {
    if (fs::is_directory(found.gl_pathv[i])) add_folder(found.gl_pathv[i], out);
    else out.emplace_back(found.gl_pathv[i]);
  }
  if (code == 0) ::globfree(&found);
  require(code == 0, "--input {}: {}", pattern,
          code == GLOB_NOMATCH ? "no such file, and no file matches it as a pattern" : "the pattern cannot be expanded");
}

// "org/name", when no such path exists and nothing about it looks like a file.
bool names_dataset(const std::string& input) {
  return is_hub_id(input) && std::count(input.begin(), input.end(), '/') == 1 && !is_known(input) &&
         input.find_first_of("*?[") == input.npos;
}

InputFile local_file(const fs::path& path) {
  require(fs::is_regular_file(path), "--input {}: not a regular file (a pipe or a device); write what it gives to a file first", path);
  return {path,
          fs::file_size(path),
          format("{} {} {}", fs::absolute(path), fs::file_size(path), fs::last_write_time(path).time_since_epoch().count()),
          {}};
}

// One subset of a card: its name and the patterns of its train split (of all splits where none is called so).
struct Subset {
  std::string name;
  std::vector<std::string> patterns;
  bool is_default = false;
};

void add_paths(const YAML::Node& node, std::vector<std::string>& out) {
  if (node.IsScalar()) out.push_back(node.as<std::string>());
  for (const auto& item : node.IsSequence() ? node : YAML::Node()) add_paths(item, out);
}

Subset read_subset(const YAML::Node& config) {
  Subset out{config["config_name"] ? config["config_name"].as<std::string>() : "default", {}};
  out.is_default = out.name == "default" || (config["default"] && config["default"].as<bool>());
  std::vector<std::string> other;
  const YAML::Node files = config["data_files"];
  if (files && files.IsSequence()) {
    for (const auto& item : files) {
      if (!item.IsMap()) add_paths(item, out.patterns);
      else if (item["path"]) add_paths(item["path"], item["split"] && item["split"].as<std::string>() == "train" ? out.patterns : other);
    }
  } else if (files) {
    add_paths(files, out.patterns);
  }
  if (out.patterns.empty()) out.patterns = other;
  if (const YAML::Node folder = config["data_dir"]) {
    if (out.patterns.empty()) out.patterns = {"**"};
    for (std::string& pattern : out.patterns) pattern = folder.as<std::string>() + "/" + pattern;
  }
  return out;
}

std::vector<Subset> read_card(const std::string& id, std::string card) {
  std::vector<Subset> out;
  std::erase(card, '\r');
  if (!card.starts_with("---")) return out;
  const size_t begin = card.find('\n'), end = card.find("\n---", 3);
  if (begin == card.npos || end == card.npos || end <= begin) return out;
  try {
    const YAML::Node configs = YAML::Load(card.substr(begin, end - begin))["configs"];
    if (!configs || !configs.IsSequence()) return out;
    for (const auto& config : configs)
      if (config.IsMap()) out.push_back(read_subset(config));
  } catch (const YAML::Exception& error) {
    fail("{}: its card (README.md) cannot be read: {}", id, error.what());
  }
  return out;
}

const Subset* choose(const std::string& id, const std::vector<Subset>& subsets, const std::string& wanted) {
  std::vector<std::string> names;
  for (const Subset& subset : subsets) {
    if (wanted.empty() ? subset.is_default : subset.name == wanted) return &subset;
    names.push_back(subset.name);
  }
  if (wanted.empty() && subsets.size() == 1) return &subsets[0];
  const std::string near = nearest(wanted, names);
  names.resize(std::min<size_t>(names.size(), 20));
  fail("{}: {}{}; its subsets are {}", id, wanted.empty() ? "--subset is needed" : format("no subset '{}'", wanted),
       near.empty() ? "" : format(", did you mean '{}'?", near), names);
}

std::string read_if_there(const fs::path& file) { return fs::exists(file) ? read_file(file) : ""; }

void add_cached(const std::string& id, const fs::path& snapshot, const std::string& subset, std::vector<InputFile>& out) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(snapshot))
    if (entry.is_regular_file()) names.push_back(entry.path().lexically_relative(snapshot).string());
  for (const std::string& name : dataset_files(id, read_if_there(snapshot / "README.md"), names, subset))
    out.push_back({snapshot / name, fs::file_size(snapshot / name), format("{}@{}/{}", id, snapshot.filename(), name), {}});
}

void add_dataset(const std::string& id, const std::string& subset, std::vector<InputFile>& out) {
  const HubSettings settings = HubSettings::from_environment();
  const auto cache = std::make_shared<const CachedRepository>(settings.cache, id, RepositoryKind::dataset);
  std::string reason = "HF_HUB_OFFLINE is set";
  const auto remote =
      settings.offline ? std::nullopt : list_repository(id, "main", RepositoryKind::dataset, HubFiles::all, settings, reason);
  if (!remote) {
    const auto snapshot = cache->snapshot("main");
    require(snapshot.has_value(), "{}: no such file or folder; as a dataset of the hub it cannot be had ({}) and is not in the cache {}",
            id, reason, settings.cache);
    log_info("{}: using what the cache holds ({})", id, reason);
    return add_cached(id, *snapshot, subset, out);
  }
  const auto fetch_one = [=](const RemoteFile& file) { fetch_files({remote->id, remote->commit, remote->kind, {file}}, *cache, settings); };
  const fs::path snapshot = cache->snapshot_folder(remote->commit);
  std::vector<std::string> names;
  for (const RemoteFile& file : remote->files) {
    names.push_back(file.name);
    if (file.name == "README.md") fetch_one(file);
  }
  cache->write_ref("main", remote->commit);
  for (const std::string& name : dataset_files(id, read_if_there(snapshot / "README.md"), names, subset)) {
    const auto file = std::find_if(remote->files.begin(), remote->files.end(), [&](const RemoteFile& f) { return f.name == name; });
    out.push_back(
        {snapshot / name, file->size.value_or(0), format("{}@{}/{}", id, remote->commit, name), [=, file = *file] { fetch_one(file); }});
  }
}

}  // namespace

namespace {

// "[a-c]" or "[!a-c]" at the beginning of a pattern: its length, or 0 where it has no end; and whether it takes a character.
size_t class_length(std::string_view pattern) {
  const size_t end = pattern.find(']', pattern.size() > 1 && pattern[1] == '!' ? 3 : 2);
  return end == pattern.npos ? 0 : end + 1;
}
bool class_takes(std::string_view pattern, size_t length, char c) {
  const bool negated = pattern[1] == '!';
  bool found = false;
  for (size_t i = negated ? 2 : 1; i + 1 < length; ++i) {
    const bool range = i + 3 < length && pattern[i + 1] == '-';
    found = found || (pattern[i] <= c && c <= pattern[range ? i + 2 : i]);
    if (range) i += 2;
  }
  return c != '/' && found != negated;
}

}  // namespace

// Keeps the set of places in `name` the pattern read so far can end at, so no pattern takes more than its length times the name's.
bool matches_pattern(std::string_view pattern, std::string_view name) {
  std::vector<bool> at(name.size() + 1, false);
  at[0] = true;
  for (size_t p = 0; p < pattern.size();) {
    std::vector<bool> next(name.size() + 1, false);
    const bool folders = pattern.substr(p).starts_with("**/"), anything = pattern.substr(p).starts_with("**"), any = pattern[p] == '*';
    const size_t in_class = pattern[p] == '[' ? class_length(pattern.substr(p)) : 0;
    const auto takes = [&](char c) {
      if (in_class) return class_takes(pattern.substr(p), in_class, c);
      return pattern[p] == '?' ? c != '/' : pattern[p] == c;
    };
    bool open = false;  // a place further left is carried on by the star
    for (size_t i = 0; i <= name.size(); ++i) {
      if (any && !anything && i > 0 && name[i - 1] == '/') open = false;
      open = open || at[i];
      if (folders) next[i] = at[i] || (open && i > 0 && name[i - 1] == '/');
      else if (any) next[i] = open;
      else if (i < name.size() && at[i] && takes(name[i])) next[i + 1] = true;
    }
    at = std::move(next);
    p += folders ? 3 : anything ? 2 : in_class ? in_class : 1;
  }
  return at[name.size()];
}

std::vector<std::string> dataset_files(const std::string& id, const std::string& card, const std::vector<std::string>& names,
                                       const std::string& subset) {
  const std::vector<Subset> subsets = read_card(id, card);
  std::vector<std::string> patterns = {"**"};
  if (!subsets.empty()) patterns = choose(id, subsets, subset)->patterns;
  else if (!subset.empty()) patterns = {subset + "/**"};
  if (patterns.empty()) patterns = {"**"};
  std::vector<std::string> out;
  for (const std::string& name : names)
    if (is_known(name) && std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) { return matches_pattern(p, name); }))
      out.push_back(name);
  require(!out.empty(), "{}{}: no .parquet, .jsonl, .json or .txt files match {}", id, subset.empty() ? "" : " (" + subset + ")", patterns);
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<InputFile> input_files(const PreprocessOptions& options) {
  std::vector<InputFile> out;
  for (const std::string& input : options.inputs) {
    if (names_dataset(input)) {
      add_dataset(input, options.subset, out);
      continue;
    }
    require(options.subset.empty(), "--subset {} goes with a dataset of the hub, not with {}", options.subset, input);
    std::vector<fs::path> paths;
    if (fs::is_directory(input)) add_folder(input, paths);
    else if (fs::exists(input)) paths.emplace_back(input);  // before patterns: a name may hold brackets
    else add_pattern(input, paths);
    for (const fs::path& path : paths) out.push_back(local_file(path));
  }
  require(!out.empty(), "--input: nothing given");
  return out;
}

InputFormat format_of(const fs::path& file, InputFormat wanted) {
  if (wanted != InputFormat::automatic) return wanted;
  const std::string suffix = telling_suffix(file);
  if (suffix == ".parquet") return InputFormat::parquet;
  return is_one_of(suffix, kTextSuffixes) ? InputFormat::text : InputFormat::jsonl;
}

}  // namespace ponte
