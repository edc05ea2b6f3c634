// `ponte inspect`: the tensors of any checkpoint, and the map between its two sides.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "convert/inspect.h"
#include "hub/hub.h"

namespace ponte {

int run_inspect(const Arguments& arguments) {
  CLI::App app("Lists the tensors of a safetensors file, a torch.save archive, a Hugging Face folder or a Megatron checkpoint.", "ponte inspect");
  std::string path;
  bool json = false, map = false;
  app.add_option("PATH", path, "file, folder or hub id")->required();
  app.add_flag("--json", json, "for programs");
  app.add_flag("--map", map, "which slice of which Hugging Face tensor feeds which Megatron parameter");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  const fs::path place = is_hub_id(path) ? resolve_model(path) : fs::path(path);
  std::string text;
  if (map) text = json ? dump_json(map_json(place)) : map_text(place);
  else text = json ? dump_json(inspection_json(inspect_checkpoint(place))) : inspection_text(inspect_checkpoint(place));
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace ponte
