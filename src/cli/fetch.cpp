// `ponte fetch`: brings a repository of the hub into the cache ahead of its use, and says where it is.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/commands.h"
#include "hub/hub.h"

namespace ponte {

int run_fetch(const Arguments& arguments) {
  CLI::App app("Resolves a folder or hub id; downloads what is not in the Hugging Face cache. Prints the folder.", "ponte fetch");
  std::string ref, revision;
  bool dataset = false, tokenizer = false;
  HubSettings settings = HubSettings::from_environment();
  app.add_option("REF", ref, "folder, or hub id such as org/name")->required();
  app.add_option("--revision", revision, "branch, tag or commit");
  app.add_flag("--dataset", dataset, "the id is a data set");
  app.add_flag("--tokenizer-only", tokenizer, "configuration and tokenizer, without weights");
  app.add_flag("--refresh", settings.refresh, "ask the hub whether the revision has moved, even where the cache holds it");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  const HubFiles files = dataset ? HubFiles::all : tokenizer ? HubFiles::tokenizer : HubFiles::model;
  const fs::path folder = resolve_repository(ref, revision, dataset ? RepositoryKind::dataset : RepositoryKind::model, files, settings);
  std::printf("%s\n", folder.c_str());
  return 0;
}

}  // namespace ponte
