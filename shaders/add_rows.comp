#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/kernel.glsl"
// add_rows: sum[i] = a[i] + b[i].
//   in   a, b [count] state
//   out  sum [count]  (state rule); may be a or b
// One thread a value.
KERNEL(AddRows)

void main() {
    uint i = thread_index();
    if (i >= p.count) return;
    p.sum.at[i] = state_rule(checked(p.a.at[i] + p.b.at[i], p.status, i));
}
