// Weights for cases: packed matrices, pages of experts with their table, and the routing that leads to them.
#pragma once

#include <functional>

#include "engine/cases/makers.h"
#include "engine/cpu/panel.h"

namespace vkmoe {
inline namespace v1 {

// A stored matrix and, of MXFP4, its scales.
struct Stored {
    Words values, scales;
};
Stored storedMatrix(size_t rows, size_t cols, uint32_t format, Values& values);

// A random matrix in panels.
Words packed(uint32_t rows, uint32_t cols, uint32_t format, Values& values);

// Adds a part to a page, at a multiple of four words; returns its offset.
size_t append(Words& page, const Words& part);

Words biasWords(size_t count, Values& values);

// Pages of all experts, the table that points to them, and what the kernels need of the routing.
struct ExpertRegions {
    size_t table, offsets, tiles, tile_count, token_of;
    uint32_t rows, groups_per_column;
};
ExpertRegions addExperts(Case& test, const Constants& c, const Shape& shape, Values& values,
                         const std::function<Words()>& make_page);

}  // namespace v1
}  // namespace vkmoe
