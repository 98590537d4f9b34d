#include "engine/cases/scene.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/cpu/panel.h"
#include "engine/moe/numerics.h"

namespace vkmoe {
inline namespace v1 {

std::string Shape::label() const {
    const char* skews[] = {"even", "one takes all", "some empty"};
    const char* pages[] = {"", ", pages of even experts", ", pages of odd experts"};
    return fmt::format("T{} E{} k{} D{} F{} {} seed {}{}", tokens, experts, top_k, model_dim, hidden_dim,
                       skews[size_t(skew)], seed, pages[size_t(here)]);
}

float Values::next() {
    uint32_t kind = below(20);
    float unit = float(int32_t(bits())) * 0x1p-31f;
    if (kind == 0) return uintBitsToFloat(bits() & 0x80000000u);  // zero of either sign
    if (kind == 1) return last_;                                  // a tie
    if (kind == 2) return unit * 0x1p-42f;                        // around the operand threshold
    if (kind == 3) return std::ldexp(unit, int(below(24)) - 12);  // another magnitude
    return last_ = unit;
}

std::vector<uint32_t> Values::floats(size_t count) {
    std::vector<uint32_t> out(count);
    for (auto& word : out) word = floatBitsToUint(next());
    return out;
}

std::vector<uint32_t> Values::operands(size_t count, uint32_t operand_bits) {
    std::vector<uint32_t> out(count);
    for (auto& word : out) word = floatBitsToUint(as_operand(next(), operand_bits));
    return out;
}

std::vector<uint32_t> Values::positive(size_t count) {
    std::vector<uint32_t> out = floats(count);
    for (auto& word : out) word &= 0x7fffffffu;
    return out;
}

std::vector<uint32_t> Values::scales(size_t count) {
    std::vector<uint32_t> out((count + 3) / 4);
    for (size_t i = 0; i < count; ++i) {
        uint32_t scale = below(10) == 0 ? 64 + below(6) : 117 + below(16);  // around the smallest that counts; ordinary
        out[i / 4] |= (below(50) == 0 ? 0 : scale) << (i % 4 * 8);
    }
    return out;
}

std::vector<uint32_t> Values::stored(size_t count, uint32_t format) {
    if (format == kF32) return floats(count);
    if (format == kMxfp4) {
        std::vector<uint32_t> codes((count + 7) / 8);
        for (auto& word : codes) word = bits();
        return codes;
    }
    std::vector<uint32_t> out((count + 1) / 2);
    for (size_t i = 0; i < count; ++i)
        out[i / 2] |= (format == kF16 ? f16_encode(next()) : bf16_encode(next())) << (i % 2 * 16);
    return out;
}

namespace {

std::vector<uint32_t> chooseExperts(const Shape& shape, Values& values) {
    std::vector<uint32_t> experts(shape.experts);
    std::iota(experts.begin(), experts.end(), 0u);
    if (shape.skew == Skew::one_takes_all) return experts;  // everyone prefers expert 0, then 1, ...
    uint32_t usable = shape.skew == Skew::some_empty ? std::max(shape.top_k, (shape.experts + 1) / 2) : shape.experts;
    for (uint32_t j = 0; j < shape.top_k; ++j) std::swap(experts[j], experts[j + values.below(usable - j)]);
    return experts;
}

}  // namespace

Routing makeRouting(const Shape& shape, Values& values) {
    Routing routing;
    uint32_t assignments = shape.tokens * shape.top_k;
    for (uint32_t t = 0; t < shape.tokens; ++t) {
        auto experts = chooseExperts(shape, values);
        routing.selected.insert(routing.selected.end(), experts.begin(), experts.begin() + shape.top_k);
    }
    routing.token_of.resize(assignments);
    routing.slot_of.resize(assignments);
    uint32_t slot = 0;
    for (uint32_t e = 0; e < shape.experts; ++e) {
        routing.offsets.push_back(slot);
        for (uint32_t a = 0; a < assignments; ++a) {
            if (routing.selected[a] != e) continue;
            routing.token_of[slot] = a / shape.top_k;
            routing.slot_of[a] = slot++;
        }
        for (uint32_t first = routing.offsets.back(); first < slot; first += kTileRows) {
            routing.tiles.push_back(e);
            routing.tiles.push_back(first);
        }
    }
    routing.offsets.push_back(slot);
    return routing;
}

uint32_t operandBits(uint32_t format, bool rounded) {
    return operandBits(WeightFormat(format), rounded ? Precision::rounded : Precision::exact);
}

}  // namespace v1
}  // namespace vkmoe
