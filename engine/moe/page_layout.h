// PageLayout: where an expert's packed matrices and biases lie in its page, in 32-bit words, each at a multiple of
// four.
#pragma once

#include "vkmoe/description.h"

namespace vkmoe {
inline namespace v1 {

struct ExpertShape {
    uint32_t model_dim = 0, hidden_dim = 0;
    bool gated = false, gate_bias = false, up_bias = false, down_bias = false;
    WeightFormat up_format = WeightFormat::f32;  // of gate and up: if the file's differ, both are widened to f32
    WeightFormat down_format = WeightFormat::f32;
};

struct PageLayout {
    uint32_t gate_weight = 0, up_weight = 0, down_weight = 0;
    uint32_t gate_bias = 0, up_bias = 0, down_bias = 0;
    uint64_t words = 0;  // of the whole page

    uint64_t bytes() const { return (words * 4 + 255) / 256 * 256; }
};

// Words of a packed [rows, cols] matrix: panels of 16 rows.
uint64_t packedWords(uint32_t rows, uint32_t cols, WeightFormat format);

PageLayout layoutPage(const ExpertShape& shape);

// The shapes of a description's routed experts and of its shared one.
ExpertShape routedShape(const Description& description, WeightFormat up, WeightFormat down);
ExpertShape sharedShape(const Description& description, WeightFormat up, WeightFormat down);

}  // namespace v1
}  // namespace vkmoe
