// FloatEnvironment: while it lives, this thread rounds to nearest and keeps subnormals, whatever the program around us
// set. SubnormalsAreZero: inside one, for kernels that make zeros of all they find below 2^-100: results that would be
// subnormal are zeros at once, on x86 if they are subnormal once rounded. Elsewhere it does nothing.
#pragma once

#include <cfenv>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace vkmoe {
inline namespace v1 {

class FloatEnvironment {
public:
    FloatEnvironment() : rounding_(std::fegetround()), control_(read()) {
        std::fesetround(FE_TONEAREST);
        write(plain(control_));
    }
    ~FloatEnvironment() {
        write(control_);
        std::fesetround(rounding_);
    }
    FloatEnvironment(const FloatEnvironment&) = delete;
    FloatEnvironment& operator=(const FloatEnvironment&) = delete;

private:
#if defined(__SSE2__)
    static uint64_t read() { return _mm_getcsr(); }
    static void write(uint64_t control) { _mm_setcsr(static_cast<unsigned>(control)); }
    static uint64_t plain(uint64_t control) { return control & ~uint64_t{0xe040}; }  // nearest, FTZ off, DAZ off
#elif defined(__aarch64__)
    static uint64_t read() {
        uint64_t control;
        asm volatile("mrs %0, fpcr" : "=r"(control));
        return control;
    }
    static void write(uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control)); }
    static uint64_t plain(uint64_t control) { return control & ~(uint64_t{0x7} << 22); }  // nearest, FZ off
#else
    static uint64_t read() { return 0; }
    static void write(uint64_t) {}
    static uint64_t plain(uint64_t control) { return control; }
#endif
    int rounding_;
    uint64_t control_;
};

class SubnormalsAreZero {
public:
#if defined(__SSE2__)
    SubnormalsAreZero() : control_(_mm_getcsr()) { _mm_setcsr(control_ | 0x8000); }  // a subnormal takes 150 cycles
    ~SubnormalsAreZero() { _mm_setcsr(control_); }
#else
    SubnormalsAreZero() {}
    ~SubnormalsAreZero() {}
#endif
    SubnormalsAreZero(const SubnormalsAreZero&) = delete;
    SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;

private:
#if defined(__SSE2__)
    unsigned control_;
#endif
};

}  // namespace v1
}  // namespace vkmoe
