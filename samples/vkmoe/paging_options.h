// The options that say how much memory experts may take, for every command that pages.
#pragma once

#include <CLI/CLI.hpp>

#include "samples/vkmoe/paging.h"

namespace vkmoe::program {

// --vram-budget, --host-budget, --policy. `choice` outlives the parsing.
void addBudgets(CLI::App& command, PagingChoice& choice);

// These and --scratch, for commands that train.
void addTrainingPaging(CLI::App& command, PagingChoice& choice);

// The first and --prefetch, --cpu-experts, --trace, --map.
void addPaging(CLI::App& command, PagingChoice& choice);

}  // namespace vkmoe::program
