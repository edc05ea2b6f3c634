// The commands of the torch-free half, each in a file of its own name. All take the arguments after their name and return the exit status.
#pragma once
#include "cli/command.h"

namespace ponte {

int run_import(const Arguments& arguments);      // import.cpp
int run_export(const Arguments& arguments);      // export.cpp
int run_convert(const Arguments& arguments);     // convert.cpp
int run_verify(const Arguments& arguments);      // verify.cpp
int run_inspect(const Arguments& arguments);     // inspect.cpp
int run_data(const Arguments& arguments);        // data.cpp
int run_preprocess(const Arguments& arguments);  // preprocess.cpp
int run_tokenize(const Arguments& arguments);    // tokenize.cpp

int run_recipes(const Arguments& arguments);       // recipes.cpp
int run_plan(const Arguments& arguments);          // plan.cpp
int run_fetch(const Arguments& arguments);         // fetch.cpp
int run_doctor(const Arguments& arguments);        // doctor.cpp
int run_train_config(const Arguments& arguments);  // train_config.cpp
int run_sft(const Arguments& arguments);           // train_config.cpp
int run_pt(const Arguments& arguments);            // train_config.cpp

}  // namespace ponte
