// Rows on vectors: sums along a row and down columns in order R32, and stores that count what may not be stored.
//
// A sum starts from -0: -0 + s is s, bit for bit. Included once a target.
#if defined(VKMOE_SIMD_ROWS) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_ROWS
#undef VKMOE_SIMD_ROWS
#else
#define VKMOE_SIMD_ROWS
#endif

#include "engine/cpu/simd/vectors-inl.h"
#include "engine/cpu/twin.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

HWY_INLINE V minusZero() { return fromBits(0x80000000u); }

// Counts the first `count` values that may not be stored; the first one has index `at`.
HWY_INLINE void checkSome(V x, size_t count, U32 status, uint32_t at) {
    if (!outOfRange(magnitudeBits(x))) return;
    HWY_ALIGN float lanes[kLanes];
    hn::Store(x, D(), lanes);
    for (uint32_t i = 0; i < std::min(count, kLanes); ++i) checked(lanes[i], status, at + i);
}

// state_rule(checked(x)) at out[at ..].
HWY_INLINE void storeState(V x, float* out, uint32_t at, size_t count, U32 status) {
    storeSome(stateRule(x), out + at, count);
    checkSome(x, count, status, at);
}

// Every `step`-th value from `from` on; lanes from `count` on repeat the last.
HWY_INLINE V loadStrided(const float* from, uint32_t step, size_t count) {
    const DI di;
    VI lane = hn::Min(hn::Iota(di, 0), hn::Set(di, int32_t(std::min(count, kLanes)) - 1));
    return hn::GatherIndex(D(), from, hn::Mul(lane, hn::Set(di, int32_t(step))));
}

// Totals of `count` whole blocks from term `first` on, lanes across blocks.
template <class Terms>
HWY_INLINE void blockTotals(const Terms& terms, uint32_t first, size_t count, float* totals) {
    V s = minusZero();
    for (uint32_t k = 0; k < kBlock; ++k) s = hn::Add(s, terms.strided(first + k, kBlock, count));
    storeSome(s, totals, count);
}

// Sum over a row of `count` terms. Of the terms: strided(first, step, count), one a lane, and at(i).
template <class Terms>
HWY_INLINE float rowSum(const Terms& terms, uint32_t count) {
    HWY_ALIGN float totals[kLanes];
    float total = -0.0f;
    const uint32_t whole = count / kBlock;
    for (uint32_t first = 0; first < whole; first += kLanes) {
        uint32_t blocks = std::min(whole - first, uint32_t{kLanes});
        blockTotals(terms, first * kBlock, blocks, totals);
        for (uint32_t i = 0; i < blocks; ++i) total = total + totals[i];
    }
    float rest = -0.0f;
    for (uint32_t i = whole * kBlock; i < count; ++i) rest = rest + terms.at(i);
    return total + rest;
}

constexpr uint32_t kColumnChunk = 256;  // columns whose totals are held while the rows go by

// Sums over tokens of columns [first, first + count), at most kColumnChunk, lanes across columns. Of the terms:
// block(t0, t1) says which tokens are next and returns whether any is present, present(t), at(t, column, lanes).
// False: no token is present.
template <class Terms>
HWY_INLINE bool columnSums(Terms& terms, uint32_t tokens, uint32_t first, uint32_t count, float* totals) {
    std::fill_n(totals, kColumnChunk, -0.0f);
    bool any = false;
    for (uint32_t t0 = 0; t0 < tokens; t0 += kBlock) {
        const uint32_t t1 = std::min(t0 + kBlock, tokens);
        if (!terms.block(t0, t1)) continue;
        any = true;
        for (uint32_t c = 0; c < count; c += kLanes) {
            V s = minusZero();
            for (uint32_t t = t0; t < t1; ++t)
                if (terms.present(t)) s = hn::Add(s, terms.at(t, first + c, count - c));
            hn::Store(hn::Add(hn::Load(D(), totals + c), s), D(), totals + c);
        }
    }
    return any;
}

// Calls body(row, first, last) for the stretches of rows that invocations [begin, end) stand for.
template <class Body>
HWY_INLINE void eachStretch(uint64_t begin, uint64_t end, uint32_t columns, const Body& body) {
    while (begin < end) {
        uint32_t row = uint32_t(begin / columns), first = uint32_t(begin % columns);
        uint32_t last = uint32_t(std::min<uint64_t>(columns, first + (end - begin)));
        body(row, first, last);
        begin += last - first;
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
