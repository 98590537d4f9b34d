// Gates from the scores of a token's chosen experts: what route_topk and assign_capacity share.
#pragma once

#include <span>

#include "engine/cpu/sums.h"
#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {

// The chosen logits' exponentials, relative to the largest.
inline void exponentiate(std::span<float> chosen) {
    float m = *std::max_element(chosen.begin(), chosen.end());
    for (float& x : chosen) x = exact_exp(x - m);
}

inline float chosenSum(std::span<const float> chosen) {
    return sumR32(uint32_t(chosen.size()), [&](uint32_t j) { return chosen[j]; });
}

inline float scaledGate(float gate, float routed_scale, const Constants& c) {
    return c.scaled != 0 ? state_rule(gate) * routed_scale : gate;
}

}  // namespace v1
}  // namespace vkmoe
