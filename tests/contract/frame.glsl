// What every test shader shares: two floats and an integer that no compiler knows, and somewhere to put the result.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_scalar_block_layout : require

layout(local_size_x = 64) in;
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer F32 { float at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer U32 { uint at[]; };
layout(push_constant, scalar) uniform Push {
    F32 result;
    U32 bits;
    float x, y;
    uint n;
} push;
