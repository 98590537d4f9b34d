// Numbers compared bit for bit: zeros of both signs differ, NaNs of the same bits do not.
#pragma once

#include <cstring>
#include <vector>

namespace test {

inline bool sameBits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace test
