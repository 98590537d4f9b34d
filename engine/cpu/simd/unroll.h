// VKMOE_UNROLL before a loop over registers: spelled out at every optimisation level, or the registers become memory.
#pragma once

#if defined(__clang__)
#define VKMOE_UNROLL _Pragma("unroll")
#else
#define VKMOE_UNROLL _Pragma("GCC unroll 16")
#endif
