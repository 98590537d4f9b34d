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

struct ReferenceRoutes {
    std::vector<uint32_t> selected;  // [tokens, top_k]
    std::vector<uint32_t> chosen;    // [tokens] how many of top_k are there; the rest is padding with gate 0
    std::vector<double> gates;       // [tokens, top_k]
    double smallest_margin = 1e30;   // between neighbours in any ranking that decides something, over all tokens
};

struct ReferenceResult : ReferenceRoutes {
    std::vector<double> output;
    std::vector<double> bound;  // of each output's change by rounding, to first order and a half
};

// Significand bits that activations are rounded to before they meet the weights of up (and gate) and of down; 0: not at
// all. The result then says how far that may move each output.
struct Rounding {
    uint32_t up_bits = 0, down_bits = 0, shared_up_bits = 0, shared_down_bits = 0;
};

ReferenceResult referenceForward(const ReferenceLayer& layer, const std::vector<float>& x,
                                 const Rounding& rounding = {});

// What the layer makes of logits [tokens, experts].
ReferenceRoutes referenceRoute(const ReferenceLayer& layer, const std::vector<double>& logits);

// Parts of it: weights [rows, v.size()] times v plus bias (empty: none), an activation, a softmax.
std::vector<double> referenceProduct(const std::vector<double>& weights, const std::vector<double>& bias,
                                     const std::vector<double>& v, size_t rows);
double referenceSigmoid(double x);
double referenceHidden(const vkmoe::Description& description, double gate, double up);
std::vector<double> referenceSoftmax(const std::vector<double>& logits);
// Gates of one token's chosen experts, given all its logits; if none is, that of expert 0, which then stands in.
std::vector<double> referenceGates(const vkmoe::Description& description, const std::vector<double>& logits,
                                   const std::vector<uint32_t>& chosen);

}  // namespace test
