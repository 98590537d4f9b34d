// The SIMD forms for every instruction set of this machine, not only the best one.
#pragma once

#include <hwy/targets.h>

#include <string>
#include <vector>

namespace test {

// While it lives, the SIMD forms use one instruction set.
class SimdTarget {
public:
    explicit SimdTarget(int64_t target) { use(target); }
    ~SimdTarget() { use(0); }
    SimdTarget(const SimdTarget&) = delete;
    SimdTarget& operator=(const SimdTarget&) = delete;

    static std::vector<int64_t> all() {
        std::vector<int64_t> targets;
        int64_t supported = hwy::SupportedTargets() & HWY_TARGETS;  // those that are compiled
        for (int64_t bit = 1; bit > 0; bit <<= 1)
            if ((supported & bit) != 0) targets.push_back(bit);
        return targets;
    }

private:
    static void use(int64_t target) {
        hwy::SetSupportedTargetsForTest(target);  // 0: what the machine has
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    }
};

}  // namespace test
