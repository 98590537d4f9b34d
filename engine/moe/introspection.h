// What happened in a forward pass, gathered batch by batch in token order: double sums, the same whatever the batches
// were.
#pragma once

#include <span>

#include "vkmoe/layer.h"

namespace vkmoe {
inline namespace v1 {

// What one batch brings back from the device; S = tokens * width.
struct BatchFacts {
    uint32_t tokens = 0, width = 0;
    std::span<const uint32_t> selected;    // [S]
    std::span<const float> gates;          // [S]
    std::span<const float> probabilities;  // [tokens, experts]
    std::span<const uint32_t> slot_of;     // [S]
    std::span<const float> energy;         // [S] by slot: sum of (y / 2^(scale-127))^2
    std::span<const uint32_t> scale;       // [S] by slot
    std::span<const uint32_t> quiet;       // [S] by slot
};

class IntrospectionSums {
public:
    explicit IntrospectionSums(const Description& description)
        : description_(description), sums_(description.experts) {}
    void add(const BatchFacts& batch);
    Introspection result() const;
    std::vector<PoolStatistics::Sums> pool() const;

private:
    struct Sums {
        uint64_t listed = 0, tokens = 0, quiet = 0;  // listed: capacity's padding too
        double gates = 0, energy = 0, magnitude = 0, probability = 0;
    };
    Description description_;
    std::vector<Sums> sums_;
    uint64_t tokens_ = 0, assignments_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
