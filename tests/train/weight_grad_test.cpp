// The gradients of the grouped GEMMs' matrices, sums over their experts' slots: against sums of doubles, chunk by chunk
// against one piece, fresh ones against zeros, and the SIMD forms on every instruction set against the scalar twins,
// bit for bit.
#include <catch2/catch_test_macros.hpp>

#include "engine/cpu/twins.h"
#include "tests/train/matrix_grads.h"

using namespace vkmoe;
using namespace test;

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
                const uint32_t rows = seed % 2 != 0 ? 37 : 80;
                INFO(
                    fmt::format("seed {} rows {} chunks {} gather {} dense {}", seed, rows, chunks, c.gather, c.dense));
                Batch batch(counts, rows, 67, c, random);
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
    const std::pair<Counts, uint32_t> all[] = {{{40, 0, 1}, 0}, {{0, 0}, 0}, {{40}, 1}, {{0}, 1}};
    for (const auto& [counts, dense] : all) {
        Constants c{.operand_bits = 24, .bias = kBias, .dense = dense};
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
    Batch batch({40}, 100, 70, c, random);
    for (auto* kernel : {cpu::expert_weight_grad, simd::expert_weight_grad})
        for (uint32_t row : {18u, 63u, 64u, 98u})
            for (uint64_t step : {uint64_t{1}, batch.groups()})
                for (float was : {0x1p63f, -INFINITY, float(NAN)}) {
                    INFO("row " << row << ", ranges of " << step << ", was " << was);
                    batch.restart();
                    const auto word = uint32_t(batch.wordAt(0, row, 5));
                    batch.grads[word] = was;
                    batch.slots.status[0] = batch.slots.status[1] = 0;
                    runGroups(kernel, batch.params(), c, batch.groups(), step);
                    CHECK(batch.slots.status[0] == 1);
                    CHECK(~batch.slots.status[1] == word);
                }
}
