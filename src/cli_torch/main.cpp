// `ponte-torch`: the commands that compute; `ponte` starts it. To add a command: a function in commands.h, a row here and one in cli/main.cpp.
#include "cli/command.h"
#include "cli_torch/commands.h"
#include "kernels/memory.h"

namespace {

constexpr ponte::Command kCommands[] = {
    {"train", "pretrain or fine-tune a model", ponte::run_train},
    {"generate", "text from a Hugging Face or Megatron model", ponte::run_generate},
    {"chat", "talk with a model", ponte::run_chat},
    {"verify-forward", "logits of both sides of a conversion, compared", ponte::run_verify_forward, false},
    {"plan-rank", "one rank's training step without memory, beside its plan", ponte::run_plan_rank, false},
};

}  // namespace

int main(int count, char** arguments) {
  ponte::keep_freed_memory();
  return ponte::run_program(kCommands, count, arguments);
}
