// Sweeps: millions of checks on all cores. Catch2's assertions are slow and not for threads, so failures are counted,
// the first one is kept, and the caller asserts once.
#pragma once

#include <tbb/blocked_range.h>
#include <tbb/parallel_reduce.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "host/cpu/float_environment.h"

namespace test {

// What a sweep found. Indices are those of its checks: 0 <= index < count.
struct Sweep {
    static constexpr uint64_t kNone = ~uint64_t{0};

    uint64_t failures = 0;
    uint64_t first = kNone;  // the smallest index that failed
    double worst = 0;        // the largest error
    uint64_t worst_at = kNone;

    void check(bool right, uint64_t index) {
        if (right) return;
        ++failures;
        first = std::min(first, index);
    }

    void measure(double error, uint64_t index) {
        if (error > worst) worst = error, worst_at = index;
    }

    static Sweep join(Sweep a, const Sweep& b) {
        a.failures += b.failures;
        a.first = std::min(a.first, b.first);
        if (b.worst > a.worst || (b.worst == a.worst && b.worst_at < a.worst_at))
            a.worst = b.worst, a.worst_at = b.worst_at;
        return a;
    }
};

// Calls body(begin, end, sweep) for ranges that together are [0, count), in the float environment of the engine.
template <class Body>
Sweep sweepRanges(uint64_t count, const Body& body) {
    auto range = [&](const tbb::blocked_range<uint64_t>& r, Sweep sweep) {
        vkmoe::FloatEnvironment environment;
        body(r.begin(), r.end(), sweep);
        return sweep;
    };
    return tbb::parallel_reduce(tbb::blocked_range<uint64_t>(0, count, 4096), Sweep{}, range, Sweep::join);
}

// Calls body(index, sweep) for every index below count.
template <class Body>
Sweep sweepAll(uint64_t count, const Body& body) {
    return sweepRanges(count, [&](uint64_t begin, uint64_t end, Sweep& sweep) {
        for (uint64_t i = begin; i < end; ++i) body(i, sweep);
    });
}

// Magnitudes at which a function or a format changes what it does.
inline constexpr uint32_t kBoundaries[] = {
    0x00000000, 0x00800000, 0x01000000,              // zero, the smallest normal numbers
    0x0d800000, 0x23800000, 0x2b800000,              // 2^-100, 2^-56, 2^-40: the rules
    0x33000000, 0x33800000, 0x38800000, 0x477ff000,  // f16: half of its smallest, smallest, smallest normal, infinity
    0x3f000000, 0x3f200000, 0x3f3504f3, 0x3f800000,  // 0.5, 0.625 (tanh), sqrt(1/2) (log), 1
    0x3fb504f3, 0x40000000, 0x41102d0e, 0x411051ec,  // sqrt(2), 2, 9.01 and 9.02 (tanh)
    0x41200000, 0x42ae0000, 0x42aeac50, 0x42b17217,  // 10 (gelu), 87, 87.34 and 88.72283 (exp)
    0x4b000000, 0x4b800000, 0x5f000000, 0x7f000000,  // 2^23, 2^24, 2^63, 2^127
    0x7f7f8000, 0x7f800000, 0x7fc00000};             // bf16 infinity, infinity, NaN

// Inputs for a function: every stride-th of all 2^32 bit patterns, and whatever lies near a boundary, of both signs.
class Inputs {
public:
    explicit Inputs(uint64_t stride) : stride_(stride) {}
    uint64_t count() const { return kNear + ((uint64_t{1} << 32) + stride_ - 1) / stride_; }
    uint32_t operator[](uint64_t index) const {
        if (index >= kNear) return static_cast<uint32_t>((index - kNear) * stride_);
        uint32_t offset = static_cast<uint32_t>(index % kWindow) - kWindow / 2,
                 sign = index / kWindow % 2 == 0 ? 0 : 0x80000000u;
        return (kBoundaries[index / kWindow / 2] + offset) ^ sign;
    }

private:
    static constexpr uint64_t kWindow = 2048;
    static constexpr uint64_t kNear = std::size(kBoundaries) * kWindow * 2;
    uint64_t stride_;
};

// Random numbers that depend on the seed only: every index of a sweep has its own sequence.
class Random {
public:
    explicit Random(uint64_t seed) : state_(mixed(seed + kGolden)) {}
    uint32_t bits() { return static_cast<uint32_t>(mixed(state_ += kGolden) >> 32); }  // splitmix64
    uint32_t below(uint32_t bound) { return static_cast<uint32_t>(uint64_t{bits()} * bound >> 32); }
    int exponent(int low, int high) { return low + static_cast<int>(below(static_cast<uint32_t>(high - low))); }
    // The bits of a float with a random sign and significand and 2^low <= |x| < 2^high.
    uint32_t between(int low, int high) {
        uint32_t biased = static_cast<uint32_t>(exponent(low, high) + 127);
        return (bits() & 0x807fffffu) | biased << 23;
    }

private:
    static constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
    static uint64_t mixed(uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    uint64_t state_;
};

}  // namespace test
