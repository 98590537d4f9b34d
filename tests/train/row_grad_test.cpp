// The gradients of the grouped GEMMs' rows, sums over a matrix's rows: against sums of doubles, and the SIMD forms on
// every instruction set against the scalar twins, bit for bit.
#include <catch2/catch_test_macros.hpp>

#include "engine/cpu/twins.h"
#include "tests/train/matrix_grads.h"

using namespace vkmoe;
using namespace test;

namespace {

// A row-major matrix and its panels, written here once more: word [row/16][col][row%16], of bf16 two columns to a word.
struct Matrix {
    uint32_t rows, cols;
    std::vector<float> values;
    std::vector<uint32_t> panels;

    Matrix(uint32_t rows_, uint32_t cols_, uint32_t format, test::Random& random) : rows(rows_), cols(cols_) {
        values = randomOperands(size_t{rows} * cols, format == kBf16 ? 8 : 24, random);
        uint32_t steps = format == kBf16 ? (cols + 1) / 2 : cols;
        panels.resize(size_t{up16(rows)} * steps);
        for (uint32_t r = 0; r < rows; ++r)
            for (uint32_t c = 0; c < cols; ++c) {
                uint32_t bits = floatBitsToUint(at(r, c)), step = format == kBf16 ? c / 2 : c;
                uint32_t& word = panels[(size_t{r / 16} * steps + step) * 16 + r % 16];
                word |= format == kF32 ? bits : c % 2 == 0 ? bits >> 16 : bits & 0xffff0000u;
            }
    }
    float at(uint32_t row, uint32_t col) const { return values[size_t{row} * cols + col]; }
};

}  // namespace

TEST_CASE("the gradient of a GEMM's rows is the sum over the matrix's rows", "[backward][simd]") {
    uint32_t seed = 0;
    for (const Counts& counts : kCounts)
        for (auto [terms, outputs] : kSizes)
            for (Constants c : {Constants{.weight_format = kF32},
                                {.weight_format = kBf16},
                                {.weight_format = kBf16, .fused = 1},
                                {.weight_format = kF32, .activation = kSiluGlu},
                                {.weight_format = kBf16, .fused = 1, .activation = kSiluGlu}}) {
                test::Random random(++seed);
                INFO(fmt::format("seed {} terms {} outputs {} format {} fused {}", seed, terms, outputs,
                                 c.weight_format, c.fused));
                Slots slots(counts);
                std::vector<Matrix> gate, up;
                std::vector<std::vector<uint32_t>> pages;
                std::vector<U32> table;
                for (size_t e = 0; e < counts.size(); ++e) {
                    gate.emplace_back(terms, outputs, c.weight_format, random);
                    up.emplace_back(terms, outputs, c.weight_format, random);
                    pages.push_back(gate[e].panels);
                    pages[e].insert(pages[e].end(), up[e].panels.begin(), up[e].panels.end());
                }
                for (auto& page : pages) table.push_back({page.data()});
                uint32_t bits = c.fused != 0 ? 16 : 24, words = uint32_t(gate[0].panels.size());
                auto a = randomOperands(size_t{slots.rows()} * terms, bits, random),
                     b = randomOperands(size_t{slots.rows()} * terms, bits, random);
                std::vector<float> out;
                uint64_t groups = uint64_t{slots.tile_count} * ((outputs + 63) / 64);
                auto common = [&](auto p) {
                    out.assign(size_t{slots.rows()} * outputs, 7.0f);
                    p.pages = {table.data()};
                    p.offsets = {slots.offsets.data()};
                    p.tiles = {slots.tiles.data()};
                    p.tile_count = {&slots.tile_count};
                    p.status = {slots.status};
                    p.rows = slots.rows();
                    return p;
                };
                auto up_params = [&] {
                    auto p = common(ExpertUpBackward{});
                    p.grad_gate = {a.data()}, p.grad_up = {b.data()}, p.grad_x = {out.data()};
                    p.model_dim = outputs, p.hidden_dim = terms, p.up_weight = words;
                    return p;
                };
                auto down_params = [&] {
                    auto p = common(ExpertDownBackward{});
                    p.grad_y = {b.data()}, p.grad_hidden = {out.data()};
                    p.model_dim = terms, p.hidden_dim = outputs, p.down_weight = words;
                    return p;
                };
                auto result = [&] { return out; };
                auto got = onEveryTarget<ExpertUpBackward>(cpu::expert_up_backward, simd::expert_up_backward, c, groups,
                                                           up_params, result);
                uint32_t wrong = 0;
                for (uint32_t slot = 0; slot < slots.rows(); ++slot)
                    for (uint32_t i = 0; i < outputs; ++i) {
                        Sum sum;
                        uint32_t e = slots.expertOf(slot);
                        for (uint32_t k = 0; k < terms; ++k) {
                            if (c.activation != kRelu) sum.add(double(a[slot * terms + k]) * gate[e].at(k, i));
                            sum.add(double(b[slot * terms + k]) * up[e].at(k, i));
                        }
                        wrong += within(got[slot * outputs + i], sum, 2 * terms) ? 0 : 1;
                    }
                CHECK(wrong == 0);
                CHECK(slots.status[0] == 0);
                if (c.activation != kRelu) continue;  // down's gradient is that of up alone
                auto down = onEveryTarget<ExpertDownBackward>(cpu::expert_down_backward, simd::expert_down_backward, c,
                                                              groups, down_params, result);
                CHECK(std::memcmp(down.data(), got.data(), 4 * got.size()) == 0);
            }
}

TEST_CASE("the gradient of logits' operands serves a large vocabulary", "[backward][simd]") {
    test::Random random(7);
    const uint32_t experts = 5003, model_dim = 70, tokens = 35;
    Matrix weight(experts, model_dim, kF32, random);
    auto grads = randomOperands(size_t{tokens} * experts, 24, random);
    std::vector<float> out(size_t{tokens} * model_dim);
    uint32_t status[2] = {};
    auto params = [&] {
        out.assign(out.size(), 7.0f);
        return RouterLogitsBackward{
            {grads.data()}, {weight.panels.data()}, {out.data()}, {status}, tokens, experts, model_dim, 0};
    };
    auto got = onEveryTarget<RouterLogitsBackward>(cpu::router_logits_backward, simd::router_logits_backward, {}, 4,
                                                   params, [&] { return out; });
    uint32_t wrong = 0;
    for (uint32_t t = 0; t < tokens; ++t)
        for (uint32_t i = 0; i < model_dim; ++i) {
            Sum sum;
            for (uint32_t e = 0; e < experts; ++e) sum.add(double(grads[t * experts + e]) * weight.at(e, i));
            wrong += within(got[t * model_dim + i], sum, experts) ? 0 : 1;
        }
    CHECK(wrong == 0);
}
