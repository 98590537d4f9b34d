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

// Operands of the first `count` values at `to`; the first one has index `at`.
HWY_INLINE void storeOperands(V x, float* to, size_t count, uint32_t bits, U32 status, uint64_t at) {
    storeSome(asOperand(x, bits), to, count);
    checkSome(x, count, status, uint32_t(at));
}

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void transpose(V (&)[1]) {}
#else
// Lane j of vector i becomes lane i of vector j.
template <size_t kCount>
HWY_INLINE void transpose(V (&v)[kCount]) {
    static_assert(kCount == kLanes && (kLanes == 4 || kLanes == 8 || kLanes == 16));
    const D f;
    VKMOE_UNROLL
    for (size_t i = 0; i < kCount; i += 4) transposeSquares(f, v[i], v[i + 1], v[i + 2], v[i + 3]);
    // Then squares change places: block i of v[4j + k] with block j of v[4i + k].
    VKMOE_UNROLL
    for (size_t k = 0; k < 4; ++k) {
        if constexpr (kCount == 8) {
            const V lower = hn::ConcatLowerLower(f, v[4 + k], v[k]);
            v[4 + k] = hn::ConcatUpperUpper(f, v[4 + k], v[k]);
            v[k] = lower;
        } else if constexpr (kCount == 16) {
            const V even01 = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(v[4 + k]), v[k]);
            const V odd01 = hn::OddEvenBlocks(v[4 + k], hn::SwapAdjacentBlocks(v[k]));
            const V even23 = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(v[12 + k]), v[8 + k]);
            const V odd23 = hn::OddEvenBlocks(v[12 + k], hn::SwapAdjacentBlocks(v[8 + k]));
            v[k] = hn::ConcatLowerLower(f, even23, even01);
            v[4 + k] = hn::ConcatLowerLower(f, odd23, odd01);
            v[8 + k] = hn::ConcatUpperUpper(f, even23, even01);
            v[12 + k] = hn::ConcatUpperUpper(f, odd23, odd01);
        }
    }
}
#endif

constexpr uint32_t kRowsAtOnce = 16;  // whose sums are formed together

// Terms of kLanes columns of a row from `column` on; -0, which adds nothing, past the end.
template <class Terms>
HWY_INLINE V rowTerms(const Terms& terms, uint32_t row, uint32_t column, uint32_t columns) {
    if (column + kLanes <= columns) return terms.at(row, column, kLanes);
    if (column >= columns) return minusZero();
    const size_t count = columns - column;
    return hn::IfThenElse(hn::FirstN(D(), count), terms.at(row, column, count), minusZero());
}

// The next kLanes blocks, of whichever rows.
struct Blocks {
    uint32_t row[kLanes] = {}, column[kLanes] = {};
    size_t count = 0;
    bool whole = true;  // kLanes blocks, none of them cut short

    // From block (next_row, next_column) on, which are moved on.
    HWY_INLINE Blocks(uint32_t& next_row, uint32_t& next_column, uint32_t rows, uint32_t columns) {
        for (; count < kLanes && next_row < rows; ++count) {
            row[count] = next_row;
            column[count] = next_column;
            next_column += kBlock;
            whole = whole && next_column <= columns;
            if (next_column < columns) continue;
            next_column = 0;
            ++next_row;
        }
        whole = whole && count == kLanes;
    }
};

// Totals of the blocks, one a lane. Terms are formed in memory order and transposed: then a lane adds up a block.
template <class Terms>
HWY_INLINE V blockTotals(const Terms& terms, const Blocks& blocks, uint32_t columns) {
    V s = minusZero(), t[kLanes];
    for (uint32_t k = 0; k < std::min(uint32_t{kBlock}, columns); k += kLanes) {
        if (blocks.whole) {
            VKMOE_UNROLL
            for (size_t i = 0; i < kLanes; ++i) t[i] = terms.at(blocks.row[i], blocks.column[i] + k, kLanes);
        } else {
            for (size_t i = 0; i < kLanes; ++i)
                t[i] = i < blocks.count ? rowTerms(terms, blocks.row[i], blocks.column[i] + k, columns) : minusZero();
        }
        transpose(t);
        VKMOE_UNROLL
        for (size_t i = 0; i < kLanes; ++i) s = hn::Add(s, t[i]);
    }
    return s;
}

// Sums over `rows` rows of `columns` terms each. terms.at(row, column, count): those of a row from a column on, in the
// first `count` lanes.
template <class Terms>
HWY_INLINE void rowSums(const Terms& terms, uint32_t rows, uint32_t columns, float* sums) {
    std::fill_n(sums, rows, -0.0f);
    HWY_ALIGN float totals[kLanes];
    for (uint32_t next_row = 0, next_column = 0; next_row < rows;) {
        const Blocks blocks(next_row, next_column, rows, columns);
        hn::Store(blockTotals(terms, blocks, columns), D(), totals);
        for (size_t i = 0; i < blocks.count; ++i) sums[blocks.row[i]] = sums[blocks.row[i]] + totals[i];
    }
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
