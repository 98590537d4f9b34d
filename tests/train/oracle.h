// The oracle of training: one MoE layer forward and backward in double-precision scalar loops, sharing no code with the
// engine. The choice of experts is a constant of the backward pass.
#pragma once

#include <string>
#include <utility>

#include "tests/moe/reference.h"
#include "tests/train/doubles.h"

namespace test {

// A layer's tensors by their names in layer files ("router.weight", "experts.3.up.weight"), those it has, in canonical
// order: router, shared expert, experts. selection_bias, which has no gradient, is not among them.
std::vector<std::pair<std::string, Doubles*>> parametersOf(ReferenceLayer& layer);

// The same layer with every number 0: where gradients accumulate.
ReferenceLayer zerosLike(const ReferenceLayer& layer);

// What the caller fixes; empty: computed.
struct OracleChoice {
    std::vector<uint32_t> selected = {};  // [tokens, top_k]
    std::vector<uint32_t> chosen = {};    // [tokens] how many of top_k are there; empty: all
    Doubles noise = {};                   // [tokens, experts], added to the logits
};

struct OracleForward {
    Doubles x;       // [tokens, model_dim]
    Doubles logits;  // [tokens, experts]
    ReferenceRoutes routes;
    Doubles output;                 // [tokens, model_dim]
    double smallest_corner = 1e30;  // how near a hidden value came to a corner of relu or of a clamp, over all tokens

    size_t tokens(const vkmoe::Description& d) const { return x.size() / d.model_dim; }
};

OracleForward oracleForward(const ReferenceLayer& layer, const Doubles& x, const OracleChoice& choice = {});

// Losses of the router, whose gradients are added to the logits': with p = softmax of a token's logits,
// balance_scale * sum over tokens of sum_e fraction[e] * p[e], and z_scale / 2 * sum over tokens of logsumexp^2.
struct RouterLosses {
    double balance_scale = 0;  // weight * experts / tokens for the loss that oracleBalanceLoss tells
    double z_scale = 0;        // 2 * weight / tokens for the loss that oracleZLoss tells
    Doubles fraction = {};     // [experts], constants; empty: of the call's own assignments
};

struct OracleGradients {
    ReferenceLayer parameters;
    Doubles x;       // [tokens, model_dim]
    Doubles gates;   // [tokens, top_k]; 0 for padding
    Doubles logits;  // [tokens, experts], with the router's losses
};

// Gradients of sum(grad_out * output) + the router's losses.
OracleGradients oracleBackward(const ReferenceLayer& layer, const OracleForward& forward, const Doubles& grad_out,
                               const RouterLosses& losses = {});

// [experts] each expert's share of the assignments.
Doubles oracleFractions(const vkmoe::Description& description, const ReferenceRoutes& routes);

double oracleBalanceLoss(const Doubles& fraction, const Doubles& logits);  // E * sum_e f[e] * mean of p[e]
double oracleZLoss(uint32_t experts, const Doubles& logits);               // mean of logsumexp^2

}  // namespace test
