// Counts a hidden value that may not be used: a sum that went out of range is caught before relu or silu can hide it.
void check_hidden(float gate, float up, float hidden, U32 status, uint index) {
    if (out_of_range(gate) || out_of_range(up) || out_of_range(hidden)) flag(status, index);
}
