// For tests that call a kernel's twin themselves.
#pragma once

#include "engine/cpu/twins.h"

namespace test {

inline constexpr vkmoe::Groups kAllGroups{0, 1u << 20};

}  // namespace test
