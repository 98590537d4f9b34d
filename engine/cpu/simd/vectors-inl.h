// The vectors of a target, and the bit rules of exact_math.h on them. Included once a target (see foreach_target.h).
#if defined(VKMOE_SIMD_VECTORS) == defined(HWY_TARGET_TOGGLE)
#ifdef VKMOE_SIMD_VECTORS
#undef VKMOE_SIMD_VECTORS
#else
#define VKMOE_SIMD_VECTORS
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "engine/cpu/simd/unroll.h"
#include "shaders/constants.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, kPanel>;
using DI = hn::RebindToSigned<D>;
using DU = hn::RebindToUnsigned<D>;
using V = hn::Vec<D>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
using Mask = hn::Mask<D>;
constexpr size_t kLanes = hn::MaxLanes(D());
constexpr size_t kPerPanel = kPanel / kLanes;  // vectors of one panel

HWY_INLINE V fromBits(uint32_t bits) { return hn::BitCast(D(), hn::Set(DU(), bits)); }
HWY_INLINE V canonicalNan() { return fromBits(0x7fc00000u); }

#if HWY_TARGET != HWY_SCALAR
// Four vectors as a row of squares, a 128-bit block wide: each square is transposed.
template <class Tag, class Vector>
HWY_INLINE void transposeSquares(Tag d, Vector& a, Vector& b, Vector& c, Vector& e) {
    const Vector low = hn::InterleaveLower(d, a, c), low2 = hn::InterleaveLower(d, b, e);
    const Vector high = hn::InterleaveUpper(d, a, c), high2 = hn::InterleaveUpper(d, b, e);
    a = hn::InterleaveLower(d, low, low2);
    b = hn::InterleaveUpper(d, low, low2);
    c = hn::InterleaveLower(d, high, high2);
    e = hn::InterleaveUpper(d, high, high2);
}
#endif

// Whether loads and stores of some lanes touch no memory of the others.
constexpr bool kLanesAreMasked = HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2;

// The first `count` values, and `rest` in the other lanes.
HWY_INLINE V loadSome(const float* from, size_t count, float rest) {
    if (count >= kLanes) return hn::LoadU(D(), from);
    if constexpr (kLanesAreMasked) {
        const Mask some = hn::FirstN(D(), count);
        return hn::IfThenElse(some, hn::MaskedLoad(some, D(), from), hn::Set(D(), rest));
    }
    HWY_ALIGN float lanes[kLanes];
    std::fill(std::copy_n(from, count, lanes), lanes + kLanes, rest);
    return hn::Load(D(), lanes);
}

HWY_INLINE void storeSome(V values, float* to, size_t count) {
    if (count >= kLanes) return hn::StoreU(values, D(), to);
    if constexpr (kLanesAreMasked) return hn::BlendedStore(values, hn::FirstN(D(), count), D(), to);
    HWY_ALIGN float lanes[kLanes];
    hn::Store(values, D(), lanes);
    std::copy_n(lanes, count, to);
}

// Magnitudes are below 2^31: signed comparisons serve.
HWY_INLINE VI magnitudeBits(V x) { return hn::BitCast(DI(), hn::Abs(x)); }
HWY_INLINE Mask below(V x, int32_t bits) { return hn::RebindMask(D(), hn::Lt(magnitudeBits(x), hn::Set(DI(), bits))); }
HWY_INLINE Mask above(V x, int32_t bits) { return hn::RebindMask(D(), hn::Gt(magnitudeBits(x), hn::Set(DI(), bits))); }
HWY_INLINE Mask isNan(V x) { return above(x, 0x7f800000); }

HWY_INLINE V zeroBelow(V x, int32_t bits) { return hn::IfThenZeroElse(below(x, bits), x); }
HWY_INLINE V normalOrZero(V x) { return zeroBelow(x, 0x00800000); }
HWY_INLINE V operandRule(V x) { return zeroBelow(x, 0x2b800000); }
HWY_INLINE V stateRule(V x) { return zeroBelow(x, 0x0d800000); }

// A running maximum of magnitudes: outOfRange says whether one of them may not be stored.
HWY_INLINE VI largest(VI seen, V x) { return hn::Max(seen, magnitudeBits(x)); }
HWY_INLINE bool outOfRange(VI seen) { return !hn::AllFalse(DI(), hn::Gt(seen, hn::Set(DI(), 0x5effffff))); }

HWY_INLINE V asOperand(V x, uint32_t bits) {
    if (bits >= 24) return operandRule(x);
    const DU du;
    const uint32_t drop = 24 - bits;
    VU b = hn::BitCast(du, x), odd = hn::And(hn::ShiftRightSame(b, int(drop)), hn::Set(du, 1u));
    b = hn::Add(b, hn::Add(hn::Set(du, (1u << (drop - 1)) - 1), odd));
    V rounded = hn::BitCast(D(), hn::And(b, hn::Set(du, ~((1u << drop) - 1))));
    return operandRule(hn::IfThenElse(below(x, 0x7f800000), rounded, x));
}

// a*b rounded, then + c rounded.
HWY_INLINE V mad(V a, V b, V c) { return hn::Add(hn::Mul(a, b), c); }

// The next term of a sum; fused, it is rounded once.
template <bool kFused>
HWY_INLINE V accumulate(V x, V w, V s) {
    if constexpr (kFused) return hn::MulAdd(x, w, s);
    return hn::Add(s, hn::Mul(x, w));
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#endif
