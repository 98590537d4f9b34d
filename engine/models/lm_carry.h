// LmCarry: what the chunks of a language model's micro-batch hand on in its backward pass: the accumulators of the
// head's gradient and of the layer at work, which all layers share, and gradients of rows between the mixtures and the
// trunk.
//
// In bytes, for T tokens: 8*T*D, and twice the gradients of the head and of the slabs of one layer.
#pragma once

#include <vector>

#include "engine/models/trunk.h"
#include "engine/train/trainable_layer.h"

namespace vkmoe {
inline namespace v1 {

struct LmCarry {
    Buffer grad_out, grad_in;   // [T, D] of a layer's output; of its mixture's input
    Buffer head;                // totals, then partials [words of the head]
    Buffer head_table;          // [2] their addresses
    std::vector<Buffer> slabs;  // totals, then partials, as the layer's gradients
    Buffer totals, partials;    // tables of them: see BackwardPass::Batch
    Buffer carried;             // [experts + 1] slots of earlier chunks, and their tokens
    Pages headTotals() const { return head_table.at<Pages>(); }
    Pages headPartials() const { return head_table.at<Pages>(8); }

    // What it is for.
    struct Model {
        const Trunk& trunk;
        const TrainableLayer* layer;  // any; null: there is none
        const ParameterSet& set;
        size_t first_slab;  // that of the layer in `set`
    };
    static Result<LmCarry> create(Engine& engine, const Model& model, uint32_t tokens);
    // Device memory that create() takes, but for the tables.
    static uint64_t bytesFor(const Model& model, uint32_t tokens);

    // Nothing was carried so far: before a layer's first chunk, and before the head's.
    void begin(Commands& commands) const;
};

}  // namespace v1
}  // namespace vkmoe
