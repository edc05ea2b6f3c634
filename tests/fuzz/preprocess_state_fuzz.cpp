// Any bytes as the state.json an interrupted preprocessing run left: counts that are none below zero, or a UserError.
#include <nlohmann/json.hpp>

#include <cstdlib>

#include "base/errors.h"
#include "base/json.h"
#include "corpus/preprocess_state.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const ponte::Json json = ponte::parse_json({reinterpret_cast<const char*>(data), size}, "state.json");
    const ponte::PreprocessState state = ponte::preprocess_state_from(json, "state.json");
    for (const auto& part : state.parts)
      if (part.tokens < 0 || part.sequences < 0 || part.documents < 0) std::abort();
    if (state.place.file < 0 || state.place.line < 0 || state.documents < 0) std::abort();
  } catch (const ponte::UserError&) {
  }
  return 0;
}
