// The options that say how much memory experts may take, for every command that pages.
#pragma once

#include <CLI/CLI.hpp>

#include "samples/vkmoe/paging.h"

namespace vkmoe::program {

// --vram-budget, --host-budget, --policy, --prefetch, --trace and, for commands that train, --scratch. `choice`
// outlives the parsing.
void addTrainingPaging(CLI::App& command, PagingChoice& choice);

// The first five and --cpu-experts, --map.
void addPaging(CLI::App& command, PagingChoice& choice);

}  // namespace vkmoe::program
