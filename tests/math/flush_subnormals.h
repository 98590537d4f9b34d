// FlushSubnormals: while it lives, this thread's arithmetic takes and gives zero for subnormals, as many GPUs do.
//
// Compilers know nothing of it: what is to run under it must be called through a volatile pointer.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace test {

class FlushSubnormals {
public:
#if defined(__SSE2__)
    static constexpr bool kSupported = true;
    FlushSubnormals() : control_(_mm_getcsr()) { _mm_setcsr(control_ | 0x8040u); }  // FTZ, DAZ
    ~FlushSubnormals() { _mm_setcsr(control_); }
#elif defined(__aarch64__)
    static constexpr bool kSupported = true;
    FlushSubnormals() {
        asm volatile("mrs %0, fpcr" : "=r"(control_));
        asm volatile("msr fpcr, %0" : : "r"(control_ | uint64_t{1} << 24));  // FZ
    }
    ~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(control_)); }
#else
    static constexpr bool kSupported = false;
    FlushSubnormals() {}
    ~FlushSubnormals() {}
#endif
    FlushSubnormals(const FlushSubnormals&) = delete;
    FlushSubnormals& operator=(const FlushSubnormals&) = delete;

private:
#if defined(__SSE2__)
    unsigned control_;
#else
    uint64_t control_ = 0;
#endif
};

}  // namespace test
