// `ponte`: the commands of the torch-free half, and the names of those that `ponte-torch` runs. To add a command: a function in commands.h, a row here.
#include "cli/command.h"
#include "cli/commands.h"

namespace {

constexpr ponte::Command kCommands[] = {
    {"import", "a Hugging Face model becomes a Megatron checkpoint", ponte::run_import},
    {"export", "a Megatron checkpoint becomes a Hugging Face folder", ponte::run_export},
    {"convert", "a Megatron checkpoint in another of Megatron's formats", ponte::run_convert},
    {"verify", "are the two the same, bit for bit", ponte::run_verify},
    {"inspect", "tensors of a checkpoint of any format, and how they map", ponte::run_inspect},
    {"preprocess", "text becomes a tokenised corpus (.bin/.idx)", ponte::run_preprocess},
    {"data", "inspect, verify and join corpora; print a run's samples", ponte::run_data},
    {"tokenize", "token ids of a text, and the way back", ponte::run_tokenize},
    {"train", "pretrain or fine-tune a model", ponte::run_train_config},
    {"generate", "text from a Hugging Face or Megatron model", nullptr},
    {"chat", "talk with a model", nullptr},
    {"recipes", "starting points of runs, and the reference of all keys", ponte::run_recipes},
    {"plan", "memory, work and speed of a run on GPUs that need not be there", ponte::run_plan},
    {"fetch", "bring a model or data set of the hub into the cache", ponte::run_fetch},
    {"doctor", "one screen about this machine", ponte::run_doctor},
    {"sft", "train --mode sft", ponte::run_sft, false},
    {"pt", "train --mode pt", ponte::run_pt, false},
    {"verify-forward", "the part of verify that computes", nullptr, false},
};

}  // namespace

int main(int count, char** arguments) { return ponte::run_program(kCommands, count, arguments); }
