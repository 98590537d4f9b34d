#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/simd/squared_error.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "engine/cpu/simd/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace HWY_NAMESPACE {

// Half the squares of out - target, from token `first` on.
struct HalfSquares {
    const SquaredError& p;
    uint64_t first;

    HWY_INLINE V difference(uint32_t row, uint32_t column, size_t count) const {
        const uint64_t at = (first + row) * p.model_dim + column;
        return hn::Sub(loadSome(p.out_.at + at, count, 0.0f), loadSome(p.target.at + at, count, 0.0f));
    }

    HWY_INLINE V at(uint32_t row, uint32_t column, size_t count) const {
        const V d = operandRule(difference(row, column, count));
        return hn::Mul(hn::Mul(d, d), hn::Set(D(), 0.5f));
    }
};

void errorRange(const SquaredError& p, uint64_t begin, uint64_t end) {
    for (uint64_t token = begin; token < end; token += kRowsAtOnce) {
        const auto rows = static_cast<uint32_t>(std::min<uint64_t>(kRowsAtOnce, end - token));
        const HalfSquares terms{p, token};
        float losses[kRowsAtOnce];
        rowSums(terms, rows, p.model_dim, losses);
        for (uint32_t i = 0; i < rows; ++i) {
            const auto row = static_cast<uint32_t>((token + i) * p.model_dim);
            for (uint32_t d = 0; d < p.model_dim; d += kLanes)
                storeState(terms.difference(i, d, p.model_dim - d), p.grad_out.at, row + d, p.model_dim - d, p.status);
            p.losses.at[token + i] = state_rule(checked(losses[i], p.status, row));
        }
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vkmoe {
inline namespace v1 {
namespace simd {

HWY_EXPORT(errorRange);

// One workgroup a token.
void squared_error(const SquaredError& p, const Constants&, Groups groups) {
    HWY_DYNAMIC_DISPATCH(errorRange)(p, groups.begin, std::min<uint64_t>(groups.end, p.tokens));
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
#endif
