// The gradients of the grouped GEMMs: against sums of doubles, chunk by chunk against one piece, and the SIMD forms on
// every instruction set against the scalar twins, bit for bit.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <functional>

#include "engine/cases/scene.h"
#include "engine/cpu/simd/panel_tile.h"
#include "engine/cpu/twins.h"
#include "shaders/exact_math.h"
#include "tests/devices.h"
#include "tests/math/sweep.h"
#include "tests/simd_targets.h"

using namespace vkmoe;

namespace {

using Counts = std::vector<uint32_t>;  // slots of each expert

uint32_t up16(uint32_t count) { return (count + 15) / 16 * 16; }

// Values in [-1, 1), some zero, of `bits` significand bits.
std::vector<float> randomOperands(size_t count, uint32_t bits, test::Random& random) {
    std::vector<float> values(count);
    for (float& x : values)
        x = random.below(16) == 0 ? 0.0f : as_operand(float(int32_t(random.bits())) * 0x1p-31f, bits);
    return values;
}

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

struct Slots {
    std::vector<uint32_t> offsets{0}, tiles, token_of;
    uint32_t tile_count = 0, tokens = 0, status[2] = {};

    explicit Slots(const Counts& counts) {
        for (uint32_t e = 0; e < counts.size(); ++e) {
            offsets.push_back(offsets.back() + counts[e]);
            for (uint32_t i = 0; i < counts[e]; ++i) token_of.push_back(2 * i + e % 2);
            for (uint32_t i = 0; i < counts[e]; i += kTileRows) tiles.insert(tiles.end(), {e, offsets[e] + i});
            tokens = std::max(tokens, 2 * counts[e] + 2);
        }
        tile_count = uint32_t(tiles.size() / 2);
    }
    uint32_t rows() const { return offsets.back(); }
    uint32_t expertOf(uint32_t slot) const {
        return uint32_t(std::upper_bound(offsets.begin(), offsets.end(), slot) - offsets.begin()) - 1;
    }
};

// A sum of n rounded products in blocks of 32: each term is rounded once, then at most 32 + n/32 + 3 more times.
double bound(double magnitude, uint32_t terms) { return (36 + terms / 32.0) * 0x1p-24 * magnitude + 0x1p-90; }

// Sum of doubles, and of their magnitudes.
struct Sum {
    double value = 0, magnitude = 0;
    void add(double x) { value += x, magnitude += std::abs(x); }
};

bool within(float got, const Sum& sum, uint32_t terms) {
    return std::abs(got - sum.value) <= bound(sum.magnitude, terms);
}

// Runs a kernel over all groups in ranges of `step`.
template <class Params>
void runGroups(void (*kernel)(const Params&, const Constants&, Groups), const Params& p, const Constants& c,
               uint64_t groups, uint64_t step) {
    for (uint64_t first = 0; first < groups; first += step) kernel(p, c, {first, std::min(groups, first + step)});
}

// The same kernel as scalar twin, then in the SIMD form of every instruction set, in whole and in odd ranges: `make`
// gives fresh parameters, `result` what was left. Returns the scalar's.
template <class Params>
std::vector<float> onEveryTarget(void (*scalar)(const Params&, const Constants&, Groups),
                                 void (*simd_form)(const Params&, const Constants&, Groups), const Constants& c,
                                 uint64_t groups, const std::function<Params()>& make,
                                 const std::function<std::vector<float>()>& result) {
    runGroups(scalar, make(), c, groups, groups + 1);
    std::vector<float> expected = result();
    for (int64_t target : test::SimdTarget::all()) {
        test::SimdTarget chosen(target);
        for (uint64_t step : {groups + 1, uint64_t{5}}) {
            runGroups(simd_form, make(), c, groups, step);
            std::vector<float> got = result();
            INFO(simd::targetName() << ", ranges of " << step);
            CHECK(std::memcmp(got.data(), expected.data(), 4 * expected.size()) == 0);
        }
    }
    return expected;
}

const Counts kCounts[] = {{0, 1, 31, 0}, {32, 33, 64}, {65, 0, 131}, {0, 0, 150}, {7}};
const std::pair<uint32_t, uint32_t> kSizes[] = {{1, 1}, {31, 65}, {32, 64}, {33, 17}, {97, 131}};

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

namespace {

// One micro-batch: gradients of every expert's matrix [rows, cols] and bias over its slots.
struct Batch {
    Slots slots;
    uint32_t rows, cols, experts, bias, words;
    Constants constants;
    std::vector<float> grad_out, x;
    std::vector<float> first;  // gradients before, all pages
    std::vector<float> grads, totals, partials;
    std::vector<U32> tables[3];
    std::vector<uint32_t> carried;

    Batch(const Counts& counts, uint32_t rows_, uint32_t cols_, const Constants& c, test::Random& random)
        : slots(counts), rows(rows_), cols(cols_), experts(uint32_t(counts.size())), constants(c) {
        bias = up16(rows) * cols;
        words = bias + rows;
        grad_out = randomOperands(size_t{slots.rows()} * rows, c.fused != 0 ? 16 : 24, random);
        x = randomOperands(size_t{std::max(slots.tokens, slots.rows())} * cols, 24, random);
        first = randomOperands(size_t{experts} * words, 24, random);
    }

    void restart() {
        grads = first;
        totals.assign(grads.size(), NAN);
        partials = totals;
        carried.assign(experts + 1, 0);
        for (auto& table : tables) table.clear();
        for (uint32_t e = 0; e < experts; ++e) {
            tables[0].push_back({reinterpret_cast<uint32_t*>(grads.data() + size_t{e} * words)});
            tables[1].push_back({reinterpret_cast<uint32_t*>(totals.data() + size_t{e} * words)});
            tables[2].push_back({reinterpret_cast<uint32_t*>(partials.data() + size_t{e} * words)});
        }
    }

    ExpertWeightGrad params() {
        ExpertWeightGrad p{};
        p.grad_out = {grad_out.data()};
        p.x = {x.data()};
        p.pages = {tables[0].data()};
        p.totals = {tables[1].data()};
        p.partials = {tables[2].data()};
        p.offsets = {slots.offsets.data()};
        p.token_of = {slots.token_of.data()};
        p.carried = {carried.data()};
        p.status = {slots.status};
        p.rows = rows, p.cols = cols, p.bias = bias, p.experts = experts, p.count = slots.rows(), p.last = 1;
        return p;
    }
    uint64_t groups() const { return uint64_t{experts} * ((rows + 31) / 32) * ((cols + 63) / 64); }

    float xAt(uint32_t slot, uint32_t col) const {
        uint32_t row = constants.gather != 0 ? slots.token_of[slot] : slot;
        return as_operand(x[size_t{row} * cols + col], constants.operand_bits);
    }

    // Where element `col` of a row of expert e is; the bias is the last.
    size_t wordAt(uint32_t e, uint32_t row, uint32_t col) const {
        return size_t{e} * words + (col == cols ? bias + row : (row / 16 * cols + col) * 16 + row % 16);
    }

    // Wrong values of the gradients of expert e, whose slots are [begin, end).
    uint32_t wrongOf(uint32_t e, uint32_t begin, uint32_t end) const {
        uint32_t wrong = 0;
        for (uint32_t r = 0; r < rows; ++r)
            for (uint32_t c = 0; c <= cols; ++c) {
                size_t at = wordAt(e, r, c);
                Sum sum;
                if (constants.fresh == 0) sum.add(first[at]);
                for (uint32_t slot = begin; slot < end; ++slot)
                    sum.add(double(grad_out[size_t{slot} * rows + r]) * (c == cols ? 1.0 : xAt(slot, c)));
                bool unchanged = (begin == end && constants.fresh == 0) || (c == cols && constants.bias == 0);
                wrong += (unchanged ? grads[at] == first[at] : within(grads[at], sum, end - begin)) ? 0 : 1;
            }
        return wrong;
    }

    // The same micro-batch in chunks: every expert's slots are cut at random places.
    void runChunks(void (*kernel)(const ExpertWeightGrad&, const Constants&, Groups), uint32_t chunks,
                   test::Random& random) {
        restart();
        Constants c = constants;
        c.carry = 1;
        std::vector<uint32_t> done(slots.offsets.begin(), slots.offsets.end() - 1);
        for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
            const bool last = chunk + 1 == chunks;
            std::vector<uint32_t> offsets{0}, token_of;
            std::vector<float> grads_of, x_of;
            for (uint32_t e = 0; e < experts; ++e) {
                uint32_t left = slots.offsets[e + 1] - done[e], take = last ? left : random.below(left + 1);
                if (chunk == 0 && !last && left > 32 && random.below(2) == 0) take = 32;  // a cut between blocks
                for (uint32_t slot = done[e]; slot < done[e] + take; ++slot) {
                    token_of.push_back(slots.token_of[slot]);
                    grads_of.insert(grads_of.end(), &grad_out[size_t{slot} * rows],
                                    &grad_out[size_t{slot} * rows] + rows);
                    x_of.insert(x_of.end(), &x[size_t{slot} * cols], &x[size_t{slot} * cols] + cols);
                }
                done[e] += take;
                offsets.push_back(offsets.back() + take);
            }
            ExpertWeightGrad p = params();
            p.grad_out = {grads_of.data()};
            p.offsets = {offsets.data()};
            p.token_of = {token_of.data()};
            if (c.gather == 0) p.x = {x_of.data()};
            p.count = offsets.back();
            p.last = last ? 1 : 0;
            runGroups(kernel, p, c, groups(), 7);
            for (uint32_t e = 0; e < experts; ++e) carried[e] += offsets[e + 1] - offsets[e];
            carried[experts] += offsets.back();
        }
    }
};

const Constants kGradForms[] = {{.operand_bits = 24, .gather = 1},
                                {.operand_bits = 24, .bias = kBias},
                                {.operand_bits = 8, .fused = 1, .bias = kBias, .gather = 1},
                                {.operand_bits = 24, .bias = kBias, .fresh = 1},
                                {.operand_bits = 8, .fused = 1, .gather = 1, .fresh = 1}};

}  // namespace

TEST_CASE("the gradient of a matrix is the sum over its expert's slots", "[backward][simd]") {
    uint32_t seed = 100;
    for (const Counts& counts : kCounts)
        for (auto [rows, cols] : kSizes)
            for (const Constants& c : kGradForms) {
                test::Random random(++seed);
                INFO(fmt::format("seed {} rows {} cols {} bits {} gather {} fresh {}", seed, rows, cols, c.operand_bits,
                                 c.gather, c.fresh));
                Batch batch(counts, rows, cols, c, random);
                auto params = [&] {
                    batch.restart();
                    return batch.params();
                };
                batch.grads = onEveryTarget<ExpertWeightGrad>(cpu::expert_weight_grad, simd::expert_weight_grad, c,
                                                              batch.groups(), params, [&] { return batch.grads; });
                for (uint32_t e = 0; e < counts.size(); ++e)
                    CHECK(batch.wrongOf(e, batch.slots.offsets[e], batch.slots.offsets[e + 1]) == 0);
                CHECK(batch.slots.status[0] == 0);
            }
}

TEST_CASE("the dense gradient of a matrix is the sum over all rows", "[backward][simd]") {
    for (uint32_t count : {0u, 1u, 31u, 32u, 33u, 199u}) {
        test::Random random(count);
        Constants c{.operand_bits = 24, .bias = kBias, .dense = 1};
        Batch batch({count}, 45, 70, c, random);
        auto params = [&] {
            batch.restart();
            return batch.params();
        };
        batch.grads = onEveryTarget<ExpertWeightGrad>(cpu::expert_weight_grad, simd::expert_weight_grad, c,
                                                      batch.groups(), params, [&] { return batch.grads; });
        INFO("seed " << count);
        CHECK(batch.wrongOf(0, 0, count) == 0);
    }
}

TEST_CASE("chunks of a micro-batch give the gradients of one piece, bit for bit", "[backward][simd]") {
    uint32_t seed = 1000;
    for (const Counts& counts : {Counts{65, 0, 131}, Counts{200}, Counts{1, 31, 32, 33}})
        for (Constants c : {kGradForms[0], kGradForms[1], kGradForms[2], kGradForms[3], kGradForms[4],
                            Constants{.operand_bits = 24, .bias = kBias, .dense = 1}})
            for (uint32_t chunks : {1u, 2u, 3u, 9u, 40u}) {
                if (c.dense != 0 && counts.size() != 1) continue;
                test::Random random(++seed);
                INFO(fmt::format("seed {} chunks {} gather {} dense {}", seed, chunks, c.gather, c.dense));
                Batch batch(counts, 37, 67, c, random);
                batch.restart();
                runGroups(cpu::expert_weight_grad, batch.params(), c, batch.groups(), 1000);
                std::vector<float> whole = batch.grads;
                for (auto* kernel : {cpu::expert_weight_grad, simd::expert_weight_grad}) {
                    batch.runChunks(kernel, chunks, random);
                    CHECK(std::memcmp(batch.grads.data(), whole.data(), 4 * whole.size()) == 0);
                }
            }
}

TEST_CASE("a fresh gradient has the bits of one added to zeros, whatever was there", "[backward][simd]") {
    test::Random random(8);
    Constants c{.operand_bits = 24, .bias = kBias};
    for (const Counts& counts : {Counts{40, 0, 1}, Counts{0, 0}}) {
        Batch batch(counts, 37, 70, c, random);
        for (auto* kernel : {cpu::expert_weight_grad, simd::expert_weight_grad}) {
            batch.restart();
            std::fill(batch.grads.begin(), batch.grads.end(), 0.0f);
            c.fresh = 0;
            runGroups(kernel, batch.params(), c, batch.groups(), 3);
            std::vector<float> added = batch.grads;
            std::fill(batch.grads.begin(), batch.grads.end(), NAN);
            c.fresh = 1;
            runGroups(kernel, batch.params(), c, batch.groups(), 3);
            uint32_t wrong = 0;
            for (uint32_t e = 0; e < counts.size(); ++e)
                for (uint32_t r = 0; r < 37; ++r)
                    for (uint32_t col = 0; col <= 70; ++col) {
                        size_t at = batch.wordAt(e, r, col);
                        wrong += std::memcmp(&batch.grads[at], &added[at], 4) != 0 ? 1 : 0;
                    }
            CHECK(wrong == 0);
            CHECK(batch.slots.status[0] == 0);
        }
    }
}

TEST_CASE("a gradient that may not be stored is counted by its word", "[backward][simd]") {
    Constants c{.operand_bits = 24, .bias = kBias};
    test::Random random(3);
    Batch batch({40}, 20, 70, c, random);
    for (auto* kernel : {cpu::expert_weight_grad, simd::expert_weight_grad}) {
        batch.restart();
        uint32_t word = (16 / 16 * 70 + 5) * 16 + 2;  // row 18, column 5
        batch.grads[word] = 0x1p63f;
        batch.slots.status[0] = batch.slots.status[1] = 0;
        runGroups(kernel, batch.params(), c, batch.groups(), 1);
        CHECK(batch.slots.status[0] == 1);
        CHECK(~batch.slots.status[1] == word);
    }
}
