// Turn: what every public call of the engine and of what lives on it holds while it runs. Calls take turns on a device,
// and what they compute on the caller's thread is rounded as the contract wants, whatever the program around us set.
#pragma once

#include <mutex>

#include "host/cpu/float_environment.h"
#include "vkmoe/engine.h"

namespace vkmoe {
inline namespace v1 {

class Turn {
public:
    explicit Turn(Engine& engine) : lock_(engine.mutex()) {}

private:
    std::lock_guard<std::recursive_mutex> lock_;
    FloatEnvironment environment_;
};

}  // namespace v1
}  // namespace vkmoe
