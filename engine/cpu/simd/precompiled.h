// What every SIMD file takes once, before it is compiled again for each instruction set: most of the time they cost.
#pragma once
#include <hwy/base.h>
#include <hwy/targets.h>
#if HWY_ARCH_X86
#include <immintrin.h>
#endif
