// The functions of exact_math.h against the C library in double: correct rounding, error bounds, special values.
//
// A double quotient or root rounded to f32 is correctly rounded (53 >= 2*24 + 2 bits), and the C library's double
// functions err by less than 1e-8 ulp of an f32.
#include <fmt/format.h>

#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "shaders/exact_math.h"
#include "tests/math/flush_subnormals.h"
#include "tests/math/sweep.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kNan = 0x7fc00000, kInfinity = 0x7f800000, kSign = 0x80000000;
constexpr uint64_t kStride = 251;  // a prime: every residue of exponent and significand comes up

uint32_t bitsOf(float x) { return std::bit_cast<uint32_t>(x); }
float fromBits(uint32_t b) { return std::bit_cast<float>(b); }
bool isSubnormal(uint32_t b) { return (b & 0x7f800000u) == 0; }
double flushed(uint32_t b) { return isSubnormal(b) ? double(fromBits(b & kSign)) : double(fromBits(b)); }

// The bits of an f32 result whose exact value rounds to x.
uint32_t stored(double x) {
    if (std::isnan(x)) return kNan;
    uint32_t b = bitsOf(static_cast<float>(x));
    return isSubnormal(b) ? b & kSign : b;
}

// ---- div and sqrt ---------------------------------------------------------------------------------------------------

struct Pair {
    uint32_t a = 0, b = 0;
};

// Significands with ma * 2^t = (2q + 1) * mb + 1 or - 1, for a 24-bit q: quotients as near a tie as there are.
Pair nearTie(test::Random& random) {
    for (;;) {
        uint32_t mb = (random.bits() & 0x007fffffu) | 0x00800001u, t = 24 + random.below(2);
        uint32_t inverse = mb;  // modulo 2^3; every step doubles the bits
        for (int i = 0; i < 4; ++i) inverse *= 2 - mb * inverse;
        uint64_t odd = inverse & ((1u << t) - 1);  // odd * mb = 1 modulo 2^t
        bool above = t == 25 && odd < 0x01000000u;
        if (above) odd = (1u << t) - odd;  // ... = -1
        odd |= 0x01000000u;                // 2q + 1
        uint64_t ma = (above ? odd * mb + 1 : odd * mb - 1) >> t;
        if (ma >= 0x00800000u && ma < 0x01000000u) return {0x3f000000u + static_cast<uint32_t>(ma), 0x3f000000u + mb};
    }
}

Pair divPair(uint64_t index) {
    test::Random random(index);
    switch (index % 4) {
        case 0:
            return {random.bits(), random.bits()};
        case 1:
            return {random.between(-20, 20), random.between(-20, 20)};
        case 2:
            return nearTie(random);
        default: {  // few bits: exact quotients; far exponents: results at the ends of the range
            uint32_t few = 0xffffffffu << random.below(23);
            return {random.bits() & few, random.bits() & few};
        }
    }
}

uint32_t expectedDiv(Pair p) { return stored(flushed(p.a) / flushed(p.b)); }
uint32_t expectedSqrt(uint32_t a) { return stored(std::sqrt(flushed(a))); }
uint32_t gotDiv(Pair p) { return bitsOf(exact_div(fromBits(p.a), fromBits(p.b))); }
uint32_t gotSqrt(uint32_t a) { return bitsOf(exact_sqrt(fromBits(a))); }

void checkDiv(uint64_t count) {
    test::Sweep sweep = test::sweepAll(count, [](uint64_t i, test::Sweep& s) {
        Pair p = divPair(i);
        s.check(gotDiv(p) == expectedDiv(p), i);
    });
    Pair p = divPair(sweep.first);
    INFO(fmt::format("0x{:08x} / 0x{:08x}: 0x{:08x}, expected 0x{:08x}", p.a, p.b, gotDiv(p), expectedDiv(p)));
    CHECK(sweep.failures == 0);
}

// input(i) for i < count
template <class Input>
void checkSqrt(uint64_t count, const Input& input) {
    test::Sweep sweep = test::sweepAll(
        count, [&](uint64_t i, test::Sweep& s) { s.check(gotSqrt(input(i)) == expectedSqrt(input(i)), i); });
    uint32_t a = sweep.failures != 0 ? input(sweep.first) : 0;
    INFO(fmt::format("sqrt(0x{:08x}): 0x{:08x}, expected 0x{:08x}", a, gotSqrt(a), expectedSqrt(a)));
    CHECK(sweep.failures == 0);
}

// ---- functions with an error bound ----------------------------------------------------------------------------------

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double geluTanh(double x) {  // x/2 * (1 + tanh(u)) is x * sigmoid(2u), without its cancellation
    double u = std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
    return x * sigmoid(2 * u);
}

enum class Domain { all, positive, negative };

struct Function {
    const char* name;
    float (*got)(float);
    double (*exact)(double);
    double bound;      // ulp
    float zero_below;  // where the contract gives +0, whatever the exact value
    Domain domain = Domain::all;
    bool ulp_of_x = false;  // where the function's own terms cancel
};

constexpr float kNever = -std::numeric_limits<float>::infinity();

const Function kFunctions[] = {
    {"exp", exact_exp, [](double x) { return std::exp(x); }, 0.99, -87.0f},
    {"log", exact_log, [](double x) { return std::log(x); }, 0.85, kNever},
    {"tanh", exact_tanh, [](double x) { return std::tanh(x); }, 1.34, kNever},
    {"sigmoid", exact_sigmoid, sigmoid, 2.83, -87.0f},
    {"silu", exact_silu, [](double x) { return x * sigmoid(x); }, 3.65, -87.0f},
    {"gelu", exact_gelu, geluTanh, 1.84, kNever, Domain::positive},
    {"gelu of negative x (ulp of x)", exact_gelu, geluTanh, 1.00, -10.0f, Domain::negative, true},
    {"rsqrt", exact_rsqrt, [](double x) { return 1 / std::sqrt(x); }, 1.50, kNever},
};

double ulp(double x) { return std::ldexp(1.0, std::max(std::ilogb(x), -126) - 23); }

// The error of function(x) in ulp; infinite if the contract fixes the result and it is another one. x is finite.
double errorOf(const Function& f, float x) {
    double exact = f.exact(flushed(bitsOf(x))), rounded = static_cast<float>(exact);
    float got = f.got(x);
    auto mustBe = [&](bool right) { return right ? 0.0 : std::numeric_limits<double>::infinity(); };
    if (x < f.zero_below) return mustBe(bitsOf(got) == 0);
    if (!std::isfinite(rounded)) return mustBe(bitsOf(got) == stored(exact));
    if (f.ulp_of_x && std::fabs(x) >= 0x1p-124f) return std::fabs(got - exact) / ulp(x);
    if (std::fabs(rounded) > 0x1p-126) return std::fabs(got - exact) / ulp(exact);
    return mustBe(got == 0 || got == static_cast<float>(std::copysign(0x1p-126, exact)));
}

bool isFinite(uint32_t b) { return (b & ~kSign) < kInfinity; }
bool isIn(Domain domain, uint32_t b) {
    return isFinite(b) && (domain == Domain::all || (domain == Domain::negative) == ((b & kSign) != 0));
}

void checkErrors(const Function& f, uint64_t stride) {
    test::Inputs inputs(stride);
    test::Sweep sweep = test::sweepAll(inputs.count(), [&](uint64_t i, test::Sweep& s) {
        if (isIn(f.domain, inputs[i])) s.measure(errorOf(f, fromBits(inputs[i])), i);
    });
    uint32_t at = sweep.worst > 0 ? inputs[sweep.worst_at] : 0;
    std::string worst = fmt::format("{}: at most {:.4f} ulp, for x = 0x{:08x} ({:.9g}): 0x{:08x}", f.name, sweep.worst,
                                    at, fromBits(at), bitsOf(f.got(fromBits(at))));
    if (stride == 1) WARN(worst);  // the figures that exact_math.h states
    INFO(worst);
    CHECK(sweep.worst <= f.bound);
    CHECK(sweep.worst > 0.3);  // it measures something
}

// ---- flushing -------------------------------------------------------------------------------------------------------

struct Named {
    const char* name;
    float (*got)(float);
};
float oneOver(float x) { return exact_div(1.0f, x); }
float halfOf(float x) { return exact_div(x, 2.0f); }

const Named kUnary[] = {{"exp", exact_exp},   {"log", exact_log},   {"tanh", exact_tanh},   {"sigmoid", exact_sigmoid},
                        {"silu", exact_silu}, {"gelu", exact_gelu}, {"rsqrt", exact_rsqrt}, {"sqrt", exact_sqrt},
                        {"1/x", oneOver},     {"x/2", halfOf}};

// A whole range under one setting of the processor. The pointer is volatile so that the calls stay where they are.
void evaluate(const Named& f, const test::Inputs& inputs, uint64_t begin, uint64_t end, std::vector<uint32_t>& out) {
    float (*volatile got)(float) = f.got;
    out.resize(end - begin);
    for (uint64_t i = begin; i < end; ++i) out[i - begin] = bitsOf(got(fromBits(inputs[i])));
}

void checkFlushing(const Named& f, uint64_t stride) {
    test::Inputs inputs(stride);
    test::Sweep sweep = test::sweepRanges(inputs.count(), [&](uint64_t begin, uint64_t end, test::Sweep& s) {
        std::vector<uint32_t> kept, flushing;
        evaluate(f, inputs, begin, end, kept);
        {
            test::FlushSubnormals flush;
            evaluate(f, inputs, begin, end, flushing);
        }
        for (uint64_t i = begin; i < end; ++i) {
            bool canonical =
                isFinite(kept[i - begin]) || kept[i - begin] == kNan || (kept[i - begin] & ~kSign) == kInfinity;
            bool subnormal = isSubnormal(kept[i - begin]) && (kept[i - begin] & ~kSign) != 0;
            s.check(kept[i - begin] == flushing[i - begin] && canonical && !subnormal, i);
        }
    });
    INFO(fmt::format("{}(0x{:08x}) differs, is a subnormal, or is a NaN other than 0x7fc00000", f.name,
                     sweep.failures != 0 ? inputs[sweep.first] : 0));
    CHECK(sweep.failures == 0);
}

// ---- the bits of version 1 of the contract --------------------------------------------------------------------------

// A sum over some inputs in which every bit of every result counts.
uint64_t digest(float (*function)(float)) {
    const test::Inputs inputs(10007);
    vkmoe::FloatEnvironment environment;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < inputs.count(); ++i)
        sum = (sum ^ bitsOf(function(fromBits(inputs[i])))) * 0x100000001b3u;  // as in FNV-1a
    return sum;
}

struct Digest {
    const char* name;
    float (*got)(float);
    uint64_t expected;
};

const Digest kDigests[] = {
    {"exp", exact_exp, 0xe97bab54f461eb29},     {"log", exact_log, 0x51c99b708ea1ef8f},
    {"tanh", exact_tanh, 0x54459282c11c86b6},   {"sigmoid", exact_sigmoid, 0x77313b118a429a2f},
    {"silu", exact_silu, 0x15fb7c6c6690defb},   {"gelu", exact_gelu, 0x455d77f62f354e46},
    {"rsqrt", exact_rsqrt, 0xc736f29268cbc2c4},
};

// ---- special values -------------------------------------------------------------------------------------------------

struct Special {
    const char* name;
    float (*got)(float);
    uint32_t x, expected;
};

constexpr uint32_t kOne = 0x3f800000, kMinusInfinity = 0xff800000, kMinusZero = 0x80000000, kTiny = 0x00000001,
                   kLarge = 0x7f7fffff;
constexpr uint32_t kBelow = 0x007fffff, kSmallest = 0x00800000, kTwoTo63 = 0x5f000000;

const Special kSpecials[] = {
    {"exp", exact_exp, 0, kOne},
    {"exp", exact_exp, kMinusZero, kOne},
    {"exp", exact_exp, kTiny, kOne},
    {"exp", exact_exp, kSign | kBelow, kOne},
    {"exp", exact_exp, kInfinity, kInfinity},
    {"exp", exact_exp, kMinusInfinity, 0},
    {"exp", exact_exp, kLarge, kInfinity},
    {"exp", exact_exp, 0x42b17218, kInfinity},
    {"exp", exact_exp, 0xc2ae0001, 0},
    {"log", exact_log, 0, kMinusInfinity},
    {"log", exact_log, kMinusZero, kMinusInfinity},
    {"log", exact_log, kTiny, kMinusInfinity},
    {"log", exact_log, kSign | kBelow, kMinusInfinity},
    {"log", exact_log, kOne, 0},
    {"log", exact_log, kInfinity, kInfinity},
    {"log", exact_log, kMinusInfinity, kNan},
    {"log", exact_log, kSign | kSmallest, kNan},
    {"sqrt", exact_sqrt, 0, 0},
    {"sqrt", exact_sqrt, kMinusZero, kMinusZero},
    {"sqrt", exact_sqrt, kBelow, 0},
    {"sqrt", exact_sqrt, kSign | kTiny, kMinusZero},
    {"sqrt", exact_sqrt, kSmallest, 0x20000000},
    {"sqrt", exact_sqrt, kInfinity, kInfinity},
    {"sqrt", exact_sqrt, kMinusInfinity, kNan},
    {"sqrt", exact_sqrt, kSign | kSmallest, kNan},
    {"rsqrt", exact_rsqrt, 0, kInfinity},
    {"rsqrt", exact_rsqrt, kMinusZero, kMinusInfinity},
    {"rsqrt", exact_rsqrt, kBelow, kInfinity},
    {"rsqrt", exact_rsqrt, kInfinity, 0},
    {"rsqrt", exact_rsqrt, kMinusInfinity, kNan},
    {"rsqrt", exact_rsqrt, kSign | kOne, kNan},
    {"sigmoid", exact_sigmoid, 0, 0x3f000000},
    {"sigmoid", exact_sigmoid, kMinusZero, 0x3f000000},
    {"sigmoid", exact_sigmoid, kBelow, 0x3f000000},
    {"sigmoid", exact_sigmoid, kInfinity, kOne},
    {"sigmoid", exact_sigmoid, kMinusInfinity, 0},
    {"silu", exact_silu, 0, 0},
    {"silu", exact_silu, kMinusZero, 0},
    {"silu", exact_silu, kBelow, 0},
    {"silu", exact_silu, kSign | kSmallest, 0},
    {"silu", exact_silu, kInfinity, kInfinity},
    {"silu", exact_silu, kMinusInfinity, 0},
    {"silu", exact_silu, kSign | kLarge, 0},
    {"silu", exact_silu, kLarge, kLarge},
    {"tanh", exact_tanh, 0, 0},
    {"tanh", exact_tanh, kMinusZero, kMinusZero},
    {"tanh", exact_tanh, kBelow, 0},
    {"tanh", exact_tanh, kSign | kTiny, kMinusZero},
    {"tanh", exact_tanh, kSmallest, kSmallest},
    {"tanh", exact_tanh, kInfinity, kOne},
    {"tanh", exact_tanh, kMinusInfinity, kSign | kOne},
    {"gelu", exact_gelu, 0, 0},
    {"gelu", exact_gelu, kMinusZero, 0},
    {"gelu", exact_gelu, kSmallest, 0},
    {"gelu", exact_gelu, kSign | kBelow, 0},
    {"gelu", exact_gelu, kInfinity, kInfinity},
    {"gelu", exact_gelu, kMinusInfinity, 0},
    {"gelu", exact_gelu, kTwoTo63, kTwoTo63},
};

struct SpecialDiv {
    uint32_t a, b, expected;
};

const SpecialDiv kSpecialDivs[] = {
    {0, 0, kNan},
    {kMinusZero, 0, kNan},
    {kBelow, kTiny, kNan},
    {kInfinity, kInfinity, kNan},
    {kInfinity, kMinusInfinity, kNan},
    {kOne, 0x7f800001, kNan},
    {0xffffffff, kOne, kNan},
    {0x7fc12345, 0xffc00000, kNan},
    {kOne, 0, kInfinity},
    {kOne, kMinusZero, kMinusInfinity},
    {kOne, kSign | kBelow, kMinusInfinity},
    {kInfinity, 0, kInfinity},
    {kInfinity, kSign | kTiny, kMinusInfinity},
    {0, kSign | kOne, kMinusZero},
    {kSign | kBelow, kSmallest, kMinusZero},
    {kOne, kMinusInfinity, kMinusZero},
    {kLarge, kSmallest, kInfinity},
    {kSign | kLarge, 0x3f7fffff, kMinusInfinity},
    {kSmallest, 0x40000000, 0},
    {kSign | kSmallest, 0x3f800001, kMinusZero},
    {0x00ffffff, 0x40000000, 0},  // just below the smallest normal number, and representable as a subnormal
    {kSmallest, 0x3f7fffff, 0x00800001},
    {kLarge, kLarge, kOne},
};

}  // namespace

TEST_CASE("div is correctly rounded", "[math]") { checkDiv(20'000'000); }
TEST_CASE("div is correctly rounded for 200 million pairs", "[.exhaustive]") { checkDiv(200'000'000); }

TEST_CASE("the pairs near a tie are near a tie", "[math]") {
    test::Sweep sweep = test::sweepAll(100'000, [](uint64_t i, test::Sweep& s) {
        test::Random random(i);
        Pair p = nearTie(random);
        double q = double(fromBits(p.a)) / double(fromBits(p.b)), ulps = q / ulp(q);
        s.check(std::fabs(ulps - std::floor(ulps) - 0.5) < 1e-6, i);
    });
    CHECK(sweep.failures == 0);
}

TEST_CASE("sqrt is correctly rounded", "[math]") {
    test::Inputs inputs(1021);
    checkSqrt(inputs.count(), [&](uint64_t i) { return inputs[i]; });
    checkSqrt(1u << 24, [](uint64_t i) { return 0x3f000000u + static_cast<uint32_t>(i); });  // every significand
}
TEST_CASE("sqrt is correctly rounded for all inputs", "[.exhaustive]") {
    checkSqrt(uint64_t{1} << 32, [](uint64_t i) { return static_cast<uint32_t>(i); });
}

TEST_CASE("the errors of the functions stay below their bounds", "[math]") {
    for (const Function& f : kFunctions) checkErrors(f, kStride);
}
TEST_CASE("the errors of the functions stay below their bounds for all inputs", "[.exhaustive]") {
    for (const Function& f : kFunctions) {
        DYNAMIC_SECTION(f.name) { checkErrors(f, 1); }
    }
}

TEST_CASE("flushing subnormals changes no function", "[math]") {
    if (!test::FlushSubnormals::kSupported) SKIP("no control over subnormals on this processor");
    for (const Named& f : kUnary) checkFlushing(f, 1021);
}
TEST_CASE("flushing subnormals changes no function for any input", "[.exhaustive]") {
    if (!test::FlushSubnormals::kSupported) SKIP("no control over subnormals on this processor");
    for (const Named& f : kUnary) {
        DYNAMIC_SECTION(f.name) { checkFlushing(f, 1); }
    }
}

TEST_CASE("special values", "[math]") {
    for (const Special& s : kSpecials) {
        INFO(fmt::format("{}(0x{:08x}): 0x{:08x}, expected 0x{:08x}", s.name, s.x, bitsOf(s.got(fromBits(s.x))),
                         s.expected));
        CHECK(bitsOf(s.got(fromBits(s.x))) == s.expected);
    }
    for (const SpecialDiv& s : kSpecialDivs) {
        INFO(fmt::format("0x{:08x} / 0x{:08x}: 0x{:08x}, expected 0x{:08x}", s.a, s.b, gotDiv({s.a, s.b}), s.expected));
        CHECK(gotDiv({s.a, s.b}) == s.expected);
    }
    for (const Named& f : kUnary) {
        for (uint32_t nan :
             {0x7f800001u, 0x7fbfffffu, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffc00000u, 0xffffffffu}) {
            INFO(fmt::format("{}(0x{:08x}): 0x{:08x}", f.name, nan, bitsOf(f.got(fromBits(nan)))));
            CHECK(bitsOf(f.got(fromBits(nan))) == kNan);
        }
    }
}

// A difference means that results differ from those of earlier builds: that takes a new version of the contract.
TEST_CASE("the functions have the bits of version 1 of the contract", "[math]") {
    for (const Digest& d : kDigests) {
        INFO(fmt::format("{}: 0x{:016x}", d.name, digest(d.got)));
        CHECK(digest(d.got) == d.expected);
    }
}

TEST_CASE("exp and log at the ends of their range", "[math]") {
    CHECK(bitsOf(exact_exp(-87.0f)) != 0);
    CHECK(bitsOf(exact_exp(fromBits(0x42b17217))) < kInfinity);
    CHECK(exact_exp(0x1p-40f) == 1.0f);
    CHECK(exact_log(fromBits(kSmallest)) < -87.3f);
    CHECK(exact_log(fromBits(kLarge)) > 88.7f);
}
