// pack_panels' SIMD form against the scalar twin on every instruction set: random shapes, fused rows, ranges cut at odd
// places, and values that may not be stored.
#include <fmt/format.h>

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <random>

#include "engine/cases/scene.h"
#include "engine/cpu/panel_packer.h"
#include "engine/cpu/simd/panel_tile.h"
#include "tests/simd_targets.h"

using namespace vkmoe;

namespace {

using Words = std::vector<uint32_t>;

struct Matrix {
    Constants constants;
    uint32_t rows, cols, row_step;
    Words source, scales;
};

// Codes of values that may not be stored, or only just, in all formats.
constexpr uint32_t kExtremes[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x5f000000, 0x5effffff, 0xdf000000, 0x7c007bff,
                                  0xfc00fbff, 0x7e007f80, 0x5f005eff, 0xff80deff, 0x23802380, 0x237fa37f, 0x80008000};

Matrix randomMatrix(const Constants& constants, Values& values, uint32_t seed) {
    Matrix m{constants, 1 + values.below(50), 1 + values.below(90), 1 + values.below(2), {}, {}};
    if (seed % 4 == 0) m.cols = 1 + values.below(700);
    const bool codes = constants.weight_format == kMxfp4;
    if (codes) m.cols = (m.cols + kBlock - 1) / kBlock * kBlock;
    size_t count = (size_t{m.rows - 1} * m.row_step + 1) * m.cols;
    m.source = values.stored(count, constants.weight_format);  // ends with the last row
    m.scales = codes ? values.scales(count / kBlock) : Words(1);
    for (uint32_t i = 0; i < (seed % 3 == 0 ? 5 : 0); ++i) {
        m.source[values.below(uint32_t(m.source.size()))] = kExtremes[values.below(std::size(kExtremes))];
        m.scales[values.below(uint32_t(m.scales.size()))] ^= (180 + values.below(76)) << 8;
    }
    return m;
}

// The panels, and then the status.
Words packed(CpuKernel kernel, Matrix& m, const std::vector<uint64_t>& cuts) {
    PackPanels p{{m.source.data()}, {m.scales.data()}, {}, {}, m.rows, m.cols, m.row_step, 0};
    Words target(size_t{ceilDiv(m.rows, kPanel)} * PanelPacker{p, m.constants}.steps() * kPanel, 0xa5a5a5a5), status(2);
    p.target = {target.data()};
    p.status = {status.data()};
    for (size_t i = 0; i + 1 < cuts.size(); ++i) kernel(&p, words(m.constants), {cuts[i], cuts[i + 1]});
    target.insert(target.end(), status.begin(), status.end());
    return target;
}

std::vector<uint64_t> randomCuts(Values& values) {
    std::vector<uint64_t> cuts{0};
    while (cuts.back() < 30) cuts.push_back(cuts.back() + 1 + values.below(7));
    if (values.below(2) == 0) cuts.resize(1);
    cuts.push_back(100000);
    return cuts;
}

}  // namespace

TEST_CASE("matrices are packed alike by the SIMD and the scalar form", "[kernels][simd]") {
    const uint32_t first = Catch::getSeed();
    uint32_t counted = 0;
    for (int64_t target : test::SimdTarget::all()) {
        test::SimdTarget chosen(target);
        for (const Constants& constants : productionConstants(kernels().pack_panels, {}))
            for (uint32_t seed = first; seed < first + 24; ++seed) {
                Values values(seed);
                Matrix m = randomMatrix(constants, values, seed);
                INFO(fmt::format("{}, seed {}: format {}, widen {}, nibbles {}, {} x {}, row step {}",
                                 simd::targetName(), seed, constants.weight_format, constants.widen, constants.nibbles,
                                 m.rows, m.cols, m.row_step));
                Words expected = packed(kernels().pack_panels.cpu, m, {0, 100000});
                CHECK(packed(kernels().pack_panels.simd, m, randomCuts(values)) == expected);
                counted += expected[expected.size() - 2];
            }
    }
    CHECK(counted > 0);
}
