// The SIMD forms of the experts against the scalar twins, bit for bit: every weight format, activation and bias, on
// every instruction set, with the workgroups cut into ranges at odd places.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <span>
#include <utility>

#include "engine/cpu/panel.h"
#include "engine/cpu/simd/panel_tile.h"
#include "tests/math/sweep.h"
#include "tests/simd_targets.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kExperts = 5;
// Of each expert: several tiles, one row, none, more than a run; the last one's page is not here.
constexpr uint32_t kRowsOf[kExperts] = {70, 1, 0, 139, 75};
constexpr uint32_t kRows = 285, kTokens = 150;

uint32_t weightWord(uint32_t format, test::Random& random) {
    uint32_t bits = random.bits();
    if (format == kF32) return random.between(-42, 3);
    if (format == kF16)
        return (bits & 0x83ff83ffu) | random.below(16) << 10 | random.below(16) << 26;  // some subnormal
    if (format == kBf16) return (bits & 0x807f807fu) | (100 + random.below(28)) << 7 | (100 + random.below(28)) << 23;
    return bits;
}

// Around the smallest that counts, ordinary, and now and then the largest or NaN.
uint32_t scaleByte(test::Random& random) {
    return random.below(400) == 0 ? 254 + random.below(2) : 60 + random.below(70);
}

// Panels of a matrix, random; scales of MXFP4 reach below the smallest that counts.
std::vector<uint32_t> panelsOf(uint32_t outputs, uint32_t cols, uint32_t format, test::Random& random) {
    uint32_t steps = panelSteps(cols, format);
    std::vector<uint32_t> words(size_t{ceilDiv(outputs, kPanel)} * steps * kPanel);
    for (size_t i = 0; i < words.size(); ++i) {
        words[i] = weightWord(format, random);
        bool scales = format == kMxfp4 && i / kPanel % steps % (kScaleGroup * kBlock / 8 + 1) == 0;
        for (uint32_t shift = 0; scales && shift < 32; shift += 8)
            words[i] = (words[i] & ~(255u << shift)) | scaleByte(random) << shift;
    }
    return words;
}

// Words behind which no memory is: a read past them ends the program. (The SIMD forms are built without sanitizers.)
class GuardedWords {
public:
    explicit GuardedWords(std::span<const uint32_t> words) {
        const size_t page = size_t(sysconf(_SC_PAGESIZE)), bytes = (words.size_bytes() + page - 1) / page * page;
        length_ = bytes + page;
        memory_ = mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(memory_ != MAP_FAILED);
        auto* end = static_cast<std::byte*>(memory_) + bytes;
        REQUIRE(mprotect(end, page, PROT_NONE) == 0);
        data_ = reinterpret_cast<uint32_t*>(end - words.size_bytes());
        std::copy(words.begin(), words.end(), data_);
    }
    ~GuardedWords() {
        if (memory_) munmap(memory_, length_);
    }
    GuardedWords(GuardedWords&& other) noexcept
        : memory_(std::exchange(other.memory_, nullptr)), length_(other.length_), data_(other.data_) {}
    GuardedWords& operator=(GuardedWords&&) = delete;

    uint32_t* data() { return data_; }

private:
    void* memory_;
    size_t length_;
    uint32_t* data_;
};

// A page for every expert with biases, gate and up (or down) panels, at whose end it ends; the routing, and room for
// the results.
struct Experts {
    uint32_t outputs, cols, words;
    std::vector<GuardedWords> pages;
    std::vector<U32> table;
    std::vector<uint32_t> offsets{0}, tiles, token_of;
    std::vector<float> x;
    uint32_t tile_count = 0, status[2] = {};

    Experts(uint32_t format, uint32_t outputs_, uint32_t cols_, uint32_t seed) : outputs(outputs_), cols(cols_) {
        test::Random random(seed);
        for (uint32_t e = 0; e < kExperts; ++e) {
            auto up = panelsOf(outputs, cols, format, random), gate = panelsOf(outputs, cols, format, random);
            words = uint32_t(up.size());
            std::vector<uint32_t> page(2 * outputs + 2 * up.size());
            for (uint32_t i = 0; i < 2 * outputs; ++i) page[i] = random.between(-3, 3);
            std::copy(up.begin(), up.end(), std::copy(gate.begin(), gate.end(), page.begin() + 2 * outputs));
            pages.emplace_back(page);
            offsets.push_back(offsets.back() + kRowsOf[e]);
            for (uint32_t first = offsets[e]; first < offsets[e + 1]; first += kTileRows)
                tiles.insert(tiles.end(), {e, first});
        }
        for (auto& page : pages) table.push_back({page.data()});
        table.back().at = nullptr;
        for (uint32_t slot = 0; slot < kRows; ++slot) token_of.push_back(random.below(kTokens));
        for (size_t i = 0; i < size_t{kRows} * cols; ++i) x.push_back(uintBitsToFloat(random.between(-10, 3)));
        tile_count = uint32_t(tiles.size() / 2);
    }
};

template <class Params>
Params paramsOf(Experts& e, std::vector<float>& out) {
    Params p{};
    p.pages = {e.table.data()};
    p.offsets = {e.offsets.data()};
    p.tiles = {e.tiles.data()};
    p.tile_count = {&e.tile_count};
    p.status = {e.status};
    p.experts = kExperts;
    p.dense_page = 3;
    out.assign(size_t{kRows} * e.outputs, 7.0f);
    e.status[0] = e.status[1] = 0;
    return p;
}

ExpertUp upParams(Experts& e, const Constants& c, std::vector<float>& out) {
    auto p = paramsOf<ExpertUp>(e, out);
    p.x = {e.x.data()};
    p.token_of = {e.token_of.data()};
    p.hidden = {out.data()};
    p.model_dim = e.cols;
    p.hidden_dim = e.outputs;
    p.gate_weight = 2 * e.outputs;
    p.up_weight = p.gate_weight + e.words;
    p.gate_bias = e.outputs;
    p.rows = c.dense != 0 ? kTokens : kRows;
    p.swiglu_limit = 7;
    p.swiglu_alpha = 1.702f;
    return p;
}

ExpertDown downParams(Experts& e, const Constants& c, std::vector<float>& out) {
    auto p = paramsOf<ExpertDown>(e, out);
    p.hidden = {e.x.data()};
    p.y = {out.data()};
    p.model_dim = e.outputs;
    p.hidden_dim = e.cols;
    p.down_weight = 2 * e.outputs + e.words;
    p.rows = c.dense != 0 ? kTokens : kRows;
    return p;
}

// What a kernel leaves: its output, and the status words as numbers.
template <class Make, class Kernel>
std::vector<uint32_t> leftBy(const Kernel& kernel, Experts& e, const Constants& c, const Make& make, uint64_t groups,
                             uint64_t step) {
    std::vector<float> out;
    auto p = make(e, c, out);
    for (uint64_t first = 0; first < groups; first += step) kernel(p, c, Groups{first, std::min(groups, first + step)});
    std::vector<uint32_t> bits{e.status[0], e.status[1]};
    for (float value : out) bits.push_back(floatBitsToUint(value));
    return bits;
}

// The tile form and the GEMV form on every instruction set against the scalar twin of the first.
template <class Make, class Kernel>
void compare(Kernel tiles, Kernel simd_tiles, Kernel simd_rows, Experts& e, const Constants& c, const Make& make) {
    uint32_t rows = c.dense != 0 ? kTokens : kRows;
    uint64_t columns = ceilDiv(e.outputs, kPanel * kTilePanels), panels = ceilDiv(e.outputs, kPanel);
    uint64_t groups = (c.dense != 0 ? ceilDiv(rows, kTileRows) : e.tile_count) * columns;
    auto expected = leftBy(tiles, e, c, make, groups, groups);
    for (int64_t target : test::SimdTarget::all()) {
        test::SimdTarget chosen(target);
        INFO(fmt::format("{} format {} fused {} activation {} bias {} dense {} [{}, {}]", simd::targetName(),
                         c.weight_format, c.fused, c.activation, c.bias, c.dense, e.outputs, e.cols));
        for (uint64_t step : {5, 8}) CHECK((leftBy(simd_tiles, e, c, make, groups, step) == expected));
        for (uint64_t step : {17, 23})  // 23 groups: four whole rows of five panels
            CHECK((leftBy(simd_rows, e, c, make, rows * panels, step) == expected));
    }
}

const std::pair<uint32_t, uint32_t> kSizes[] = {{70, 64}, {5, 160}, {131, 32}};

}  // namespace

TEST_CASE("expert_up has the scalar twin's bits on every instruction set", "[kernels][simd]") {
    for (uint32_t format : {kF32, kF16, kBf16, kMxfp4})
        for (uint32_t activation : {kRelu, kSiluGlu, kGeluGlu, kClampedSwiglu})
            for (auto [outputs, cols] : kSizes) {
                if (activation != kSiluGlu && outputs != 70) continue;
                Experts e(format, outputs, format == kMxfp4 ? cols : cols - 3, outputs + format);
                for (uint32_t bias : {0u, kBias, kBias | kGateBias})
                    compare(cpu::expert_up, simd::expert_up, simd::expert_up_gemv, e,
                            {.weight_format = format, .operand_bits = 24, .activation = activation, .bias = bias},
                            upParams);
                compare(cpu::expert_up, simd::expert_up, simd::expert_up_gemv, e,
                        {.weight_format = format, .operand_bits = 13, .activation = activation, .dense = 1}, upParams);
            }
}

TEST_CASE("expert_down has the scalar twin's bits on every instruction set", "[kernels][simd]") {
    for (uint32_t format : {kF32, kF16, kBf16, kMxfp4})
        for (auto [outputs, cols] : kSizes)
            for (uint32_t fused : {0u, 1u})
                for (uint32_t bias : {0u, kBias}) {
                    Experts e(format, outputs, format == kMxfp4 ? cols : cols - 1, outputs + format);
                    if (fused != 0 && format == kF32) continue;
                    for (float& x : e.x) x = fused != 0 ? as_operand(x, 10) : x;
                    Constants c{.weight_format = format, .fused = fused, .bias = bias};
                    compare(cpu::expert_down, simd::expert_down, simd::expert_down_gemv, e, c, downParams);
                }
}
