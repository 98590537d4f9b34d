// The expert's activation: relu(up), or silu(gate) * up. The product's operands follow the operand rule, so it is never subnormal.
float activate(float gate, float up) {
    if (c_activation == kRelu) return up > uintBitsToFloat(0u) ? up : uintBitsToFloat(0u);
    return operand_rule(exact_silu(gate)) * operand_rule(up);
}
