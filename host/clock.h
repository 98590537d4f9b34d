// secondsNow: a steady clock, for durations.
#pragma once

#include <chrono>

namespace vkmoe {
inline namespace v1 {

inline double secondsNow() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace v1
}  // namespace vkmoe
