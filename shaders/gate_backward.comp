#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
#include "shaders/row_total.glsl"
// gate_backward: gradients of gates, dot products of the output's gradient with the experts' outputs.
//   in   grad_out [tokens, model_dim]; y [slots, model_dim]; slot_of [tokens, top_k]; with c_shared_gate also
//        shared_y [tokens, model_dim], shared_gates [tokens]
//   out  grad_gates [tokens, top_k]  (state rule), 0 where the slot is absent
//        grad_shared_logits [tokens] if c_shared_gate, operands: dot * (s * (1 - s)), s = shared_gates
// One workgroup a gate: token * (top_k + c_shared_gate) + rank, the shared gate last; the status counts by it. Both factors
// take the operand rule here. Order R32 over model_dim.
KERNEL(GateBackward)

// Slot kAbsent: of the shared expert.
float row_term(uint token, uint slot, uint d) {
    float y;
    if (c_shared_gate != 0u && slot == kAbsent)
        y = p.shared_y.at[token * p.model_dim + d];
    else
        y = p.y.at[slot * p.model_dim + d];
    return operand_rule(p.grad_out.at[token * p.model_dim + d]) * operand_rule(y);
}

float sigmoid_slope(float s) { return operand_rule(s * (uintBitsToFloat(0x3f800000u) - s)); }

void main() {
    uint gates = p.top_k + c_shared_gate;
    uint token = group_index() / gates, m = group_index() % gates, a = token * p.top_k + m;
    if (token >= p.tokens) return;  // the whole workgroup
    bool shared_ = m == p.top_k;
    uint slot = kAbsent;
    if (!shared_) slot = p.slot_of.at[a];
    if (!shared_ && slot == kAbsent) {  // the whole workgroup
        if (lane_index() == 0u) p.grad_gates.at[a] = uintBitsToFloat(0u);
        return;
    }
    float total = row_total(token, slot, p.model_dim);
    if (lane_index() != 0u) return;
    total = checked(total, p.status, group_index());
    if (shared_)
        p.grad_shared_logits.at[token] = operand_rule(operand_rule(total) * sigmoid_slope(p.shared_gates.at[token]));
    else
        p.grad_gates.at[a] = state_rule(total);
}
