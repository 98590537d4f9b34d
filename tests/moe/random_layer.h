// A random layer of any description and weight format, as a source for the engine and as doubles for the oracle.
#pragma once

#include "engine/formats/tensor_source.h"
#include "tests/moe/reference.h"

namespace test {

struct RandomLayer {
    vkmoe::formats::LayerSource source;
    ReferenceLayer reference;
};

// Weights are drawn in the format's own values, so that both sides hold the same numbers.
RandomLayer makeRandomLayer(const vkmoe::Description& description, vkmoe::WeightFormat format, uint32_t seed);

// [tokens, model_dim] values in [-1, 1].
std::vector<float> randomTokens(uint32_t tokens, uint32_t model_dim, uint32_t seed);

}  // namespace test
