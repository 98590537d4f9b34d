// The next token from a row of logits: the reference engine's sampler (facts: greedy takes the first of equals; with a
// temperature one uniform draw walks down the probabilities in index order).
#pragma once

#include <cstdint>
#include <span>

#include "engine/formats/moe0.h"

namespace vkmoe {
inline namespace v1 {

class Sampler {
public:
    Sampler(double temperature, uint32_t seed) : temperature_(temperature), draws_(seed) {}
    uint32_t next(std::span<const float> logits);

private:
    double temperature_;
    formats::SeededRng draws_;
};

}  // namespace v1
}  // namespace vkmoe
