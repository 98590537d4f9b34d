#include "engine/cpu/simd/panel_tile.h"

#include "engine/cpu/simd/unroll.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/panel_tile.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, kPanel>;
using V = hn::Vec<D>;
using DU = hn::RebindToUnsigned<D>;
constexpr size_t kLanes = hn::MaxLanes(D());
constexpr size_t kPerPanel = kPanel / kLanes;          // vectors of one panel
constexpr size_t kColumns = kLanes == kPanel ? 4 : 2;  // vectors of a register tile: as the registers allow
constexpr size_t kRegisterRows = 6;

// Where the weights of vector v of the tile start for the current block: [k][16] floats.
struct Block {
    const float* weights[kTilePanels];
    uint32_t k0, terms;  // first term and how many
};

template <bool kFused>
HWY_INLINE V accumulate(V x, V w, V s) {
    if constexpr (kFused) return hn::MulAdd(x, w, s);
    return hn::Add(s, hn::Mul(x, w));
}

// One block of R rows by C vectors: s = first product, then products in ascending k; then into the totals.
template <bool kFused, size_t R, size_t C>
HWY_INLINE void multiplyBlock(PanelTile& tile, const Block& block, size_t row, size_t vector) {
    const D d;
    const float* w[C];
    const float* x[R];
    VKMOE_UNROLL
    for (size_t c = 0; c < C; ++c) w[c] = block.weights[(vector + c) / kPerPanel] + (vector + c) % kPerPanel * kLanes;
    VKMOE_UNROLL
    for (size_t r = 0; r < R; ++r) x[r] = tile.rows[row + r] + block.k0;
    V s[R][C];
    VKMOE_UNROLL
    for (size_t c = 0; c < C; ++c) {
        V weight = hn::LoadU(d, w[c]);
        VKMOE_UNROLL
        for (size_t r = 0; r < R; ++r) s[r][c] = hn::Mul(hn::Set(d, x[r][0]), weight);
    }
    for (uint32_t k = 1; k < block.terms; ++k) {
        V weight[C];
        VKMOE_UNROLL
        for (size_t c = 0; c < C; ++c) weight[c] = hn::LoadU(d, w[c] + k * kPanel);
        VKMOE_UNROLL
        for (size_t r = 0; r < R; ++r) {
            V xk = hn::Set(d, x[r][k]);
            VKMOE_UNROLL
            for (size_t c = 0; c < C; ++c) s[r][c] = accumulate<kFused>(xk, weight[c], s[r][c]);
        }
    }
    VKMOE_UNROLL
    for (size_t r = 0; r < R; ++r) {
        float* totals = tile.totals[row + r] + vector * kLanes;
        VKMOE_UNROLL
        for (size_t c = 0; c < C; ++c) {
            const float* bias = tile.bias[(vector + c) / kPerPanel];
            if (block.k0 != 0)
                s[r][c] = hn::Add(hn::LoadU(d, totals + c * kLanes), s[r][c]);
            else if (bias)
                s[r][c] = hn::Add(hn::LoadU(d, bias + (vector + c) % kPerPanel * kLanes), s[r][c]);
            hn::StoreU(s[r][c], d, totals + c * kLanes);
        }
    }
}

template <bool kFused, size_t C>
HWY_INLINE void multiplyRows(PanelTile& tile, const Block& block, size_t vector) {
    size_t row = 0;
    for (; row + kRegisterRows <= tile.row_count; row += kRegisterRows)
        multiplyBlock<kFused, kRegisterRows, C>(tile, block, row, vector);
    switch (tile.row_count - row) {
        case 5:
            return multiplyBlock<kFused, 5, C>(tile, block, row, vector);
        case 4:
            return multiplyBlock<kFused, 4, C>(tile, block, row, vector);
        case 3:
            return multiplyBlock<kFused, 3, C>(tile, block, row, vector);
        case 2:
            return multiplyBlock<kFused, 2, C>(tile, block, row, vector);
        case 1:
            return multiplyBlock<kFused, 1, C>(tile, block, row, vector);
        default:
            return;
    }
}

// f16 bits in 32-bit lanes to f32: the exponent is rebiased by an exact multiplication, which also scales subnormals.
HWY_INLINE V decodeF16(hn::Vec<DU> half) {
    const D d;
    const DU du;
    auto sign = hn::ShiftLeft<16>(hn::And(half, hn::Set(du, 0x8000u)));
    auto magnitude = hn::ShiftLeft<13>(hn::And(half, hn::Set(du, 0x7fffu)));
    V scaled = hn::Mul(hn::BitCast(d, magnitude), hn::BitCast(d, hn::Set(du, 0x77800000u)));  // 2^112
    return hn::Or(scaled, hn::BitCast(d, sign));
}

// `terms` columns of one 16-bit panel from column k0 (even) into [terms][16] floats.
HWY_INLINE void decodePanel(const uint32_t* panel, uint32_t format, uint32_t k0, uint32_t terms, float* out) {
    const D d;
    const DU du;
    for (uint32_t k = 0; k < terms; k += 2) {
        for (size_t v = 0; v < kPanel; v += kLanes) {
            auto word = hn::LoadU(du, panel + uint64_t{(k0 + k) / 2} * kPanel + v);
            auto low = hn::And(word, hn::Set(du, 0xffffu)), high = hn::ShiftRight<16>(word);
            V even = format == kF16 ? decodeF16(low) : hn::BitCast(d, hn::ShiftLeft<16>(low));
            V odd = format == kF16 ? decodeF16(high) : hn::BitCast(d, hn::ShiftLeft<16>(high));
            hn::StoreU(even, d, out + k * kPanel + v);
            hn::StoreU(odd, d, out + (k + 1) * kPanel + v);  // the scratch has room for a last odd column
        }
    }
}

template <bool kFused>
HWY_INLINE void runBlocks(PanelTile& tile) {
    HWY_ALIGN float scratch[kTilePanels][(kBlock + 1) * kPanel];
    for (uint32_t k0 = 0; k0 < tile.cols; k0 += kBlock) {
        Block block{{}, k0, std::min(uint32_t{kBlock}, tile.cols - k0)};
        for (uint32_t i = 0; i < tile.panel_count; ++i) {
            if (tile.format == kF32) {
                block.weights[i] = reinterpret_cast<const float*>(tile.panels[i] + uint64_t{k0} * kPanel);
            } else {
                decodePanel(tile.panels[i], tile.format, k0, block.terms, scratch[i]);
                block.weights[i] = scratch[i];
            }
        }
        size_t vectors = tile.panel_count * kPerPanel, v = 0;
        for (; v + kColumns <= vectors; v += kColumns) multiplyRows<kFused, kColumns>(tile, block, v);
        for (; v < vectors; ++v) multiplyRows<kFused, 1>(tile, block, v);
    }
}

void runTile(PanelTile& tile) { tile.fused ? runBlocks<true>(tile) : runBlocks<false>(tile); }

const char* nameOfTarget() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vkmoe {
inline namespace v1 {
namespace simd {

HWY_EXPORT(runTile);
HWY_EXPORT(nameOfTarget);

void run(PanelTile& tile) { HWY_DYNAMIC_DISPATCH(runTile)(tile); }
const char* targetName() { return HWY_DYNAMIC_DISPATCH(nameOfTarget)(); }

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
