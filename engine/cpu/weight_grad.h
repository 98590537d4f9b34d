// What the scalar and the SIMD form of expert_weight_grad share: whose slots a range of workgroups adds up, and the
// accumulators of R32 that a micro-batch carries from chunk to chunk.
#pragma once

#include "engine/cpu/twin.h"

namespace vkmoe {
inline namespace v1 {

// The slots of an expert and the pages that their sums go to.
struct GradSlots {
    uint32_t first = 0, end = 0;                      // slots of this chunk
    uint32_t before = 0;                              // those of earlier chunks
    uint32_t *grads = 0, *totals = 0, *partials = 0;  // pages; the last two if constants.carry
    bool last = true;                                 // the gradient is added, not carried on
    bool fresh = false;                               // and assigned: there was none

    uint32_t after() const { return before + (end - first); }
    bool nothing() const { return first == end && !(last && (before != 0 || fresh)); }
    // Which accumulators a number of slots leaves behind.
    static bool hasTotal(uint32_t slots) { return slots >= kBlock; }
    static bool hasPartial(uint32_t slots) { return slots % kBlock != 0; }
};

inline uint32_t gradExperts(const ExpertWeightGrad& p, const Constants& c) { return c.dense != 0 ? 1 : p.experts; }

// Whether the pages that the expert's sums go to are in memory (see Pages).
inline bool areHere(const ExpertWeightGrad& p, const Constants& c, uint32_t expert) {
    if (!p.pages.at[expert].at) return false;
    return c.carry == 0 || (p.totals.at[expert].at && p.partials.at[expert].at);
}

// None if a page is not here.
inline GradSlots findSlots(const ExpertWeightGrad& p, const Constants& c, uint32_t expert) {
    GradSlots slots;
    if (c.dense == 0 && !areHere(p, c, expert)) return slots;
    uint32_t page = c.dense != 0 ? p.dense_page : expert;
    slots.first = c.dense != 0 ? 0 : p.offsets.at[expert];
    slots.end = c.dense != 0 ? p.count : p.offsets.at[expert + 1];
    slots.grads = p.pages.at[page].at;
    slots.fresh = c.fresh != 0;
    if (c.carry == 0) return slots;
    slots.before = p.carried.at[c.dense != 0 ? p.experts : expert];
    slots.totals = p.totals.at[page].at;
    slots.partials = p.partials.at[page].at;
    slots.last = p.last != 0;
    return slots;
}

// x of a slot.
inline const float* gradInput(const ExpertWeightGrad& p, const Constants& c, uint32_t slot) {
    return p.x.at + uint64_t{c.gather != 0 ? p.token_of.at[slot] : slot} * p.cols;
}

// Word of an element of the matrix in a page.
inline uint32_t gradWord(const ExpertWeightGrad& p, uint32_t row, uint32_t col) {
    return p.weight + (row / kPanel * p.cols + col) * kPanel + row % kPanel;
}

// Adds a finished sum to a gradient, a word of the page.
inline void addGradient(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t word, float total) {
    float sum = slots.fresh ? total : uintBitsToFloat(slots.grads[word]) + total;
    slots.grads[word] = floatBitsToUint(state_rule(checked(sum, p.status, word)));
}

// The two accumulators of R32 for one word of a gradient, over the slots of a chunk. -0 is where a sum starts: -0 + s
// is s, bit for bit.
class ChunkSum {
public:
    ChunkSum(const GradSlots& slots, uint32_t word) {
        if (GradSlots::hasTotal(slots.before)) total_ = uintBitsToFloat(slots.totals[word]);
        if (GradSlots::hasPartial(slots.before)) sum_ = uintBitsToFloat(slots.partials[word]);
        rank_ = slots.before;
    }

    void add(float term) {
        sum_ = sum_ + term;
        if (++rank_ % kBlock != 0) return;
        total_ = total_ + sum_;
        sum_ = -0.0f;
    }

    // Into the gradient, or on to the next chunk.
    void finish(const ExpertWeightGrad& p, const GradSlots& slots, uint32_t word) const {
        if (slots.last) return addGradient(p, slots, word, total_ + sum_);
        if (GradSlots::hasTotal(rank_)) slots.totals[word] = floatBitsToUint(normal_or_zero(total_));
        if (GradSlots::hasPartial(rank_)) slots.partials[word] = floatBitsToUint(normal_or_zero(sum_));
    }

private:
    float total_ = -0.0f, sum_ = -0.0f;
    uint32_t rank_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
