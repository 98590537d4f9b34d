// Scene: a random but reproducible layer in mid-flight: tokens, weights, routes, slots. Cases are cut out of it.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/cases/case.h"

namespace vkmoe {
inline namespace v1 {

// How assignments spread over experts.
enum class Skew { even, one_takes_all, some_empty };

// Which experts' pages have an address (see Pages), where a kernel finds them by expert.
enum class Here { all, even, odd };

struct Shape {
    uint32_t tokens = 5, experts = 8, top_k = 2, model_dim = 40, hidden_dim = 24;
    Skew skew = Skew::even;
    uint32_t seed = 1;
    bool same_pages = false;  // every expert has a copy of the first one's weights: large scenes are made faster
    Here here = Here::all;

    bool isHere(uint32_t expert) const { return here == Here::all || (here == Here::odd) == (expert % 2 != 0); }

    std::string label() const;
};

// Reproducible test values: mostly in [-1, 1], some of other magnitudes, below the operand threshold, zero of both
// signs, repeats.
class Values {
public:
    explicit Values(uint32_t seed) : random_(seed) {}
    uint32_t bits() { return random_(); }
    uint32_t below(uint32_t bound) { return uint32_t(uint64_t{random_()} * bound >> 32); }
    float next();
    std::vector<uint32_t> floats(size_t count);                        // bits of next()
    std::vector<uint32_t> operands(size_t count, uint32_t bits = 24);  // as_operand(next(), bits)
    std::vector<uint32_t> positive(size_t count);                      // the same without signs
    std::vector<uint32_t> scales(size_t count);                        // e8m0 bytes, four to a word
    std::vector<uint32_t> stored(size_t count, uint32_t format);       // a row-major array in a weight format

private:
    std::mt19937 random_;
    float last_ = 0.5f;
};

// The routing of a shape: every token's experts, and the counting sort of them.
struct Routing {
    std::vector<uint32_t> selected;           // [tokens, top_k]
    std::vector<uint32_t> offsets;            // [experts+1]
    std::vector<uint32_t> token_of, slot_of;  // [tokens*top_k]
    std::vector<uint32_t> tiles;              // [tile_count, 2]
};
Routing makeRouting(const Shape& shape, Values& values);

// Significand bits an activation is rounded to before it meets weights of `format`, 24: not at all.
uint32_t operandBits(uint32_t format, bool rounded);

// A case of the kernel for these constants, cut from the scene of this shape; lengths that the kernel or the format
// cannot have are the next ones that it can.
Case makeCase(const KernelCode& code, const Constants& constants, const Shape& shape);

// Every production form of the kernel: the constants that layers ask for on a device with these limits. None: the
// device lacks what the kernel needs.
std::vector<Constants> productionConstants(const KernelCode& code, const DeviceLimits& limits);

// Whether the kernel finds its pages by expert, and leaves those alone whose pages are not here.
bool findsPages(const KernelCode& code);

// Shapes that test a kernel's edges: empty, one, tile-1, tile, tile+1, primes, one expert taking all, experts with
// none.
std::vector<Shape> edgeShapes(const KernelCode& code);

// Adversarial arguments for one function of math_probe.h: rounding ties, range ends, specials where the contract covers
// them.
Case mathCase(uint32_t function, uint32_t seed, uint32_t count);
const char* mathFunctionName(uint32_t function);

}  // namespace v1
}  // namespace vkmoe
