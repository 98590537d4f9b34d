// The gradients of the grouped GEMMs' rows: expert_down_backward, expert_up_backward, router_logits_backward.
#include "engine/cpu/grad_panels.h"
#include "engine/cpu/simd/epilogue.h"
#include "engine/cpu/simd/grad_tile.h"
#include "engine/cpu/simd/tile_walk.h"

namespace vkmoe {
inline namespace v1 {
namespace simd {
namespace {

// Walks the tiles of rows of `grad` [rows, terms] times a matrix [terms, cols] at word `weight` of their page:
// body(tile with its totals, first row).
template <class Params, class Body>
void eachProduct(const Params& p, const Constants& c, Groups groups, F32 grad, uint32_t weight, uint32_t terms,
                 uint32_t cols, const Body& body) {
    auto row_at = [&](uint32_t row) { return grad.at + uint64_t{row} * terms; };
    eachTile(p, c, groups, ceilDiv(cols, kRunOutputs), terms, row_at,
             [&](const TileRows& rows, RowsView x, uint32_t panel) {
                 ColumnTile tile;
                 tile.x = x;
                 tile.row_count = rows.end - rows.first;
                 tile.panels = rows.page + weight;
                 tile.rows = terms;
                 tile.cols = cols;
                 tile.first = panel * kPanel;
                 tile.format = c.weight_format;
                 tile.fused = c.fused != 0;
                 run(tile);
                 body(tile, rows.first);
             });
}

// Index of row r of a tile in an array [rows, cols], and the values of it.
uint32_t indexOf(const ColumnTile& tile, uint32_t row) { return row * tile.cols + tile.first; }
uint32_t widthOf(const ColumnTile& tile) { return std::min(kRunOutputs, tile.cols - tile.first); }

void store(const ColumnTile& tile, uint32_t first_row, F32 out, U32 status) {
    storeState({out.at, status, indexOf(tile, first_row), tile.cols, tile.row_count, widthOf(tile)}, tile.totals);
}

}  // namespace

void expert_down_backward(const ExpertDownBackward& p, const Constants& c, Groups groups) {
    eachProduct(p, c, groups, p.grad_y, p.down_weight, p.model_dim, p.hidden_dim,
                [&](const ColumnTile& tile, uint32_t row) { store(tile, row, p.grad_hidden, p.status); });
}

void router_logits_backward(const RouterLogitsBackward& p, const Constants&, Groups groups) {
    U32 page = p.weight;
    expert_down_backward(asDense(p, &page), {.weight_format = kF32, .dense = 1}, groups);
}

// The totals of gate wait in grad_x for those of up.
void expert_up_backward(const ExpertUpBackward& p, const Constants& c, Groups groups) {
    const bool gated = c.activation != kRelu;
    if (gated)
        eachProduct(p, c, groups, p.grad_gate, p.gate_weight, p.hidden_dim, p.model_dim,
                    [&](const ColumnTile& tile, uint32_t row) {
                        for (uint32_t r = 0; r < tile.row_count; ++r)
                            std::copy_n(tile.totals[r], widthOf(tile), p.grad_x.at + indexOf(tile, row + r));
                    });
    eachProduct(p, c, groups, p.grad_up, p.up_weight, p.hidden_dim, p.model_dim, [&](ColumnTile& tile, uint32_t row) {
        for (uint32_t r = 0; r < tile.row_count && gated; ++r) {
            const float* gate = p.grad_x.at + indexOf(tile, row + r);
            for (uint32_t i = 0; i < widthOf(tile); ++i) tile.totals[r][i] = gate[i] + tile.totals[r][i];
        }
        store(tile, row, p.grad_x, p.status);
    });
}

}  // namespace simd
}  // namespace v1
}  // namespace vkmoe
