// expert_up's sums before the activation, for the backward pass.
void keep_totals(uint at, float gate, float up) {
    if (c_keep_totals == 0u) return;
    if (c_activation != kRelu) p.gate_total.at[at] = state_rule(gate);
    p.up_total.at[at] = state_rule(up);
}
