// What tests of the grouped GEMMs' gradients share: slots of experts, sums of doubles with a bound, and a kernel run as
// scalar twin and in every SIMD form.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "engine/cases/scene.h"
#include "engine/cpu/simd/panel_tile.h"
#include "shaders/exact_math.h"
#include "tests/math/sweep.h"
#include "tests/simd_targets.h"

namespace test {

using vkmoe::Constants;
using vkmoe::Groups;

using Counts = std::vector<uint32_t>;  // slots of each expert

inline uint32_t up16(uint32_t count) { return (count + 15) / 16 * 16; }

// Values in [-1, 1), some zero, of `bits` significand bits.
inline std::vector<float> randomOperands(size_t count, uint32_t bits, Random& random) {
    std::vector<float> values(count);
    for (float& x : values)
        x = random.below(16) == 0 ? 0.0f : vkmoe::as_operand(float(int32_t(random.bits())) * 0x1p-31f, bits);
    return values;
}

struct Slots {
    std::vector<uint32_t> offsets{0}, tiles, token_of;
    uint32_t tile_count = 0, tokens = 0, status[2] = {};

    explicit Slots(const Counts& counts) {
        for (uint32_t e = 0; e < counts.size(); ++e) {
            offsets.push_back(offsets.back() + counts[e]);
            for (uint32_t i = 0; i < counts[e]; ++i) token_of.push_back(2 * i + e % 2);
            for (uint32_t i = 0; i < counts[e]; i += vkmoe::kTileRows) tiles.insert(tiles.end(), {e, offsets[e] + i});
            tokens = std::max(tokens, 2 * counts[e] + 2);
        }
        tile_count = uint32_t(tiles.size() / 2);
    }
    uint32_t rows() const { return offsets.back(); }
    uint32_t expertOf(uint32_t slot) const {
        return uint32_t(std::upper_bound(offsets.begin(), offsets.end(), slot) - offsets.begin()) - 1;
    }
};

// A sum of n rounded products in blocks of 32: each term is rounded once, then at most 32 + n/32 + 3 more times.
inline double bound(double magnitude, uint32_t terms) { return (36 + terms / 32.0) * 0x1p-24 * magnitude + 0x1p-90; }

// Sum of doubles, and of their magnitudes.
struct Sum {
    double value = 0, magnitude = 0;
    void add(double x) { value += x, magnitude += std::abs(x); }
};

inline bool within(float got, const Sum& sum, uint32_t terms) {
    return std::abs(got - sum.value) <= bound(sum.magnitude, terms);
}

// Runs a kernel over all groups in ranges of `step`.
template <class Params>
void runGroups(void (*kernel)(const Params&, const Constants&, Groups), const Params& p, const Constants& c,
               uint64_t groups, uint64_t step) {
    for (uint64_t first = 0; first < groups; first += step) kernel(p, c, {first, std::min(groups, first + step)});
}

// The same kernel as scalar twin, then in the SIMD form of every instruction set, in whole and in odd ranges: `make`
// gives fresh parameters, `result` what was left. Returns the scalar's.
template <class Params>
std::vector<float> onEveryTarget(void (*scalar)(const Params&, const Constants&, Groups),
                                 void (*simd_form)(const Params&, const Constants&, Groups), const Constants& c,
                                 uint64_t groups, const std::function<Params()>& make,
                                 const std::function<std::vector<float>()>& result) {
    runGroups(scalar, make(), c, groups, groups + 1);
    std::vector<float> expected = result();
    for (int64_t target : SimdTarget::all()) {
        SimdTarget chosen(target);
        for (uint64_t step : {groups + 1, uint64_t{5}}) {
            runGroups(simd_form, make(), c, groups, step);
            std::vector<float> got = result();
            INFO(vkmoe::simd::targetName() << ", ranges of " << step);
            CHECK(std::memcmp(got.data(), expected.data(), 4 * expected.size()) == 0);
        }
    }
    return expected;
}

inline const Counts kCounts[] = {{0, 1, 31, 0}, {32, 33, 64}, {65, 0, 131}, {0, 0, 150}, {7}};
inline const std::pair<uint32_t, uint32_t> kSizes[] = {{1, 1}, {31, 65}, {32, 64}, {33, 17}, {97, 131}};

}  // namespace test
