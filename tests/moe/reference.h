// The oracle: a MoE layer in double-precision scalar loops, sharing no code with the engine.
#pragma once

#include <cstdint>
#include <vector>

#include "vkmoe/description.h"

namespace test {

// Row-major weights as doubles; gate is empty for relu, biases are empty where absent.
struct ReferenceExpert {
    std::vector<double> gate, up, down, gate_bias, up_bias, down_bias;
};

struct ReferenceLayer {
    vkmoe::Description description;
    std::vector<double> router, router_bias, selection_bias;
    std::vector<ReferenceExpert> experts;
    ReferenceExpert shared;
    std::vector<double> shared_router;  // of a sigmoid-gated shared expert
};

struct ReferenceResult {
    std::vector<double> output;
    std::vector<double> bound;       // of each output's change by rounding, to first order and a half
    std::vector<uint32_t> selected;  // [tokens, top_k]
    std::vector<double> gates;
    double smallest_margin = 1e30;  // between neighbours in any ranking that decides something, over all tokens
};

// Significand bits that activations are rounded to before they meet the weights of up (and gate) and of down; 0: not at
// all. The result then says how far that may move each output.
struct Rounding {
    uint32_t up_bits = 0, down_bits = 0, shared_up_bits = 0, shared_down_bits = 0;
};

ReferenceResult referenceForward(const ReferenceLayer& layer, const std::vector<float>& x,
                                 const Rounding& rounding = {});

}  // namespace test
