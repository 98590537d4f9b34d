// expect: the capability CooperativeMatrixKHR
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#include "frame.glsl"

shared float tile[256];

void main() {
    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> m;
    coopMatLoad(m, tile, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
    push.result.at[0] = m[0];
}
