// Packed weights the other way round, in scalar code: sums over the rows of a matrix, its columns are the outputs.
#pragma once

#include "engine/cpu/expert_outputs.h"
#include "engine/cpu/panel.h"
#include "engine/cpu/sums.h"

namespace vkmoe {
inline namespace v1 {

// A packed [rows, cols] matrix, kF32 or kBf16.
struct PackedMatrix {
    const uint32_t* panels;
    uint32_t rows, cols, format;

    float at(uint32_t row, uint32_t col) const {
        const uint32_t* panel = panels + uint64_t{row / kPanel} * panelSteps(cols, format) * kPanel;
        return panelWeight(panel, col, row % kPanel, format);
    }
};

// Sum over k of x[k] * weight[k, col], in order R32.
inline float columnDot(const float* x, const PackedMatrix& matrix, uint32_t col) {
    return sumR32(matrix.rows, [&](uint32_t k) { return x[k] * matrix.at(k, col); });
}

// One gradient of a hidden value.
inline void downGradient(const ExpertDownBackward& p, const Constants& c, const uint32_t* page, uint32_t row,
                         uint32_t output) {
    PackedMatrix down{page + p.down_weight, p.model_dim, p.hidden_dim, c.weight_format};
    uint32_t at = row * p.hidden_dim + output;
    float total = columnDot(p.grad_y.at + uint64_t{row} * p.model_dim, down, output);
    p.grad_hidden.at[at] = state_rule(checked(total, p.status, at));
}

// One gradient of an input.
inline void upGradient(const ExpertUpBackward& p, const Constants& c, const uint32_t* page, uint32_t row,
                       uint32_t output) {
    auto total = [&](F32 grad, uint32_t weight) {
        PackedMatrix matrix{page + weight, p.hidden_dim, p.model_dim, c.weight_format};
        return columnDot(grad.at + uint64_t{row} * p.hidden_dim, matrix, output);
    };
    float sum = total(p.grad_up, p.up_weight);
    if (c.activation != kRelu) sum = total(p.grad_gate, p.gate_weight) + sum;
    uint32_t at = row * p.model_dim + output;
    p.grad_x.at[at] = state_rule(checked(sum, p.status, at));
}

// The gradient of the router's logits is that of a dense expert: `page` holds the address of its page.
inline ExpertDownBackward asDense(const RouterLogitsBackward& p, U32* page) {
    ExpertDownBackward dense{};
    dense.grad_y = p.grad_logits;
    dense.pages = {page};
    dense.grad_hidden = p.grad_x;
    dense.status = p.status;
    dense.model_dim = p.experts;
    dense.hidden_dim = p.model_dim;
    dense.rows = p.tokens;
    return dense;
}

}  // namespace v1
}  // namespace vkmoe
