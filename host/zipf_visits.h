// zipfVisits: a seeded history of a stack of layers whose experts are used as unevenly, and repeat as much, as those of
// real models. The same options give the same visits on every machine.
#pragma once

#include <cstdint>
#include <vector>

#include "host/residency.h"

namespace vkmoe {
inline namespace v1 {

struct ZipfOptions {
    uint32_t layers = 24;
    uint32_t experts = 64;  // of a layer
    uint32_t top_k = 4;     // at most `experts`
    uint32_t tokens = 256;
    double zipf = 1.0;          // the expert of rank r is drawn in proportion to 1 / r^zipf; ranks are each layer's own
    double repeat = 0.6;        // 0 to 1: how likely an expert is one of the layer's previous token
    bool repeat_whole = false;  // true: with that probability the previous token's experts are used again, all of them
    uint64_t seed = 1;
};

// One visit a token and layer, token by token: group = layer, pages layer * experts + expert, `top_k` of them, each
// once, in the order drawn.
std::vector<Visit> zipfVisits(const ZipfOptions& options);

}  // namespace v1
}  // namespace vkmoe
