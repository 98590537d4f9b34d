// The command line of the commands that train and of those that use what was trained.
#pragma once

#include <functional>

#include "samples/vkmoe/context.h"

namespace CLI {
class App;
}

namespace vkmoe::program {

// Adds them to `app`; `add_shared` gives a command the options that all have. Running one sets the exit code.
void addTraining(CLI::App& app, Context& context, int& exit_code,
                 const std::function<void(CLI::App&, Context&)>& add_shared);

}  // namespace vkmoe::program
