// ExpertStore against what Weights puts on a device, byte for byte, or with the same sentence where values are wrong.
#include "engine/moe/expert_store.h"

#include <fmt/format.h>

#include <atomic>
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "engine/formats/layer_file.h"
#include "engine/formats/model_source.h"
#include "engine/formats/moe0_write.h"
#include "engine/moe/weights.h"
#include "host/pager.h"
#include "tests/formats/test_folder.h"
#include "tests/moe/random_layer.h"
#include "tests/must.h"

using namespace vkmoe;
using formats::LayerSource;
using formats::TensorRange;

namespace {

using Bytes = std::vector<std::byte>;
using PageBytes = std::vector<Bytes>;

Engine& cpuEngine() {
    static const auto engine = test::must(Engine::open({.device = "cpu"}));
    return *engine;
}

// The routed pages of a layer on the CPU device; what no tensor covers was zero before.
Result<PageBytes> loadedPages(const LayerSource& source, bool widen) {
    VKMOE_TRY(weights, Weights::load(cpuEngine(), source, widen));
    auto at = [](uint64_t address) { return reinterpret_cast<std::byte*>(static_cast<uintptr_t>(address)); };
    for (const Buffer& slab : weights.slabs) std::memset(at(slab.address()), 0, slab.size());
    VKMOE_CHECK(weights.fill(cpuEngine(), source));
    PageBytes pages;
    for (uint32_t e = 0; e < source.description.experts; ++e)
        pages.emplace_back(at(weights.pages[e]), at(weights.pages[e]) + weights.routed.bytes());
    return pages;
}

Result<PageBytes> readPages(const ExpertStore& store) {
    Bytes scratch;
    PageBytes pages;
    for (PageId page = 0; page < store.pages(); ++page) {
        pages.emplace_back(store.pageBytes(page), std::byte{0xa5});
        VKMOE_CHECK(store.read(page, pages.back(), scratch));
        Bytes by_parts(pages.back().size(), std::byte{0x5a});
        for (uint32_t part = store.row(page).parts; part-- > 0;)
            VKMOE_CHECK(store.readPart(page, part, by_parts, scratch));
        CHECK(by_parts == pages.back());
    }
    return pages;
}

Result<PageBytes> storedPages(std::vector<LayerSource> layers, bool widen) {
    VKMOE_TRY(store, ExpertStore::create(std::move(layers), widen));
    return readPages(*store);
}

void checkAlike(const LayerSource& source, bool widen = false) {
    auto loaded = loadedPages(source, widen), stored = storedPages({source}, widen);
    CHECK((loaded ? "" : loaded.error().detail) == (stored ? "" : stored.error().detail));
    if (loaded && stored) CHECK(*loaded == *stored);
}

// ---- random layers --------------------------------------------------------------------------------------------------

using Random = std::mt19937;
uint32_t below(Random& random, uint32_t bound) { return uint32_t(random() % bound); }

Description randomDescription(Random& random, bool blocks) {
    auto width = [&] { return blocks ? 32 * (1 + below(random, 9)) : 1 + below(random, 150); };
    Description d;
    d.model_dim = width();
    d.hidden_dim = width();
    d.experts = 1 + below(random, 5);
    d.top_k = 1;
    if (below(random, 3) == 0) d.activation = Activation::relu;
    d.up_bias = below(random, 2) == 0;
    d.down_bias = below(random, 2) == 0;
    d.gate_bias = d.gated() && below(random, 2) == 0;
    return d;
}

Bytes allBytes(const LayerSource& source) {
    Bytes bytes(source.bytes->size());
    REQUIRE(source.bytes->read(0, bytes));
    return bytes;
}

TensorRange& tensorNamed(LayerSource& source, const std::string& name) {
    return const_cast<TensorRange&>(*source.find(name));
}

// The same layer with the up matrices of another one, whose bytes follow.
LayerSource withUpOf(LayerSource source, const LayerSource& other) {
    Bytes bytes = allBytes(source), more = allBytes(other);
    for (uint32_t e = 0; e < source.description.experts; ++e) {
        TensorRange range = *other.find(expertPrefix(e) + ".up.weight");
        range.offset += bytes.size();
        range.scales_offset += bytes.size();
        tensorNamed(source, range.name) = range;
    }
    bytes.insert(bytes.end(), more.begin(), more.end());
    source.bytes = memorySource("mixed layer", std::move(bytes));
    return source;
}

// Rows of two byte matrices in turn, appended; returns where they begin.
uint64_t interleave(Bytes& bytes, uint64_t a, uint64_t b, uint64_t rows, uint64_t row_bytes) {
    uint64_t begin = bytes.size();
    for (uint64_t row = 0; row < rows; ++row)
        for (uint64_t from : {a, b})
            for (uint64_t i = 0; i < row_bytes; ++i) bytes.push_back(bytes[from + row * row_bytes + i]);
    return begin;
}

// The same layer with gate and up in turn, row by row.
LayerSource fused(LayerSource source) {
    Bytes bytes = allBytes(source);
    for (uint32_t e = 0; e < source.description.experts && source.description.gated(); ++e) {
        TensorRange& gate = tensorNamed(source, expertPrefix(e) + ".gate.weight");
        TensorRange& up = tensorNamed(source, expertPrefix(e) + ".up.weight");
        uint64_t rows = gate.shape[0], row = gate.bytes / rows, scales = gate.scales_bytes / rows;
        uint64_t values_at = interleave(bytes, gate.offset, up.offset, rows, row);
        uint64_t scales_at = interleave(bytes, gate.scales_offset, up.scales_offset, rows, scales);
        uint64_t place = 0;
        for (TensorRange* range : {&gate, &up}) {
            range->offset = values_at + place * row;
            range->scales_offset = scales_at + place++ * scales;
            range->row_step = 2;
            range->bytes += (rows - 1) * row;
            range->scales_bytes += scales == 0 ? 0 : (rows - 1) * scales;
        }
    }
    source.bytes = memorySource("fused layer", std::move(bytes));
    return source;
}

// Biases as bf16, with whatever values their bytes then have: some may not be finite.
void shrinkBiases(LayerSource& source) {
    for (TensorRange& range : source.tensors) {
        if (range.shape.size() != 1 || !range.name.starts_with("experts.")) continue;
        range.format = WeightFormat::bf16;
        range.bytes /= 2;
    }
}

constexpr WeightFormat kFormats[] = {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16, WeightFormat::mxfp4};

LayerSource randomSource(Random& random, WeightFormat format) {
    const bool blocks = format == WeightFormat::mxfp4;
    const Description d = randomDescription(random, blocks);
    LayerSource source = test::makeRandomLayer(d, format, uint32_t(random())).source;
    const uint32_t kind = below(random, 4);
    if (kind == 0) source = fused(std::move(source));
    if (kind == 1 && d.model_dim % 32 == 0)
        source = withUpOf(std::move(source), test::makeRandomLayer(d, kFormats[below(random, 4)], 7).source);
    if (kind == 2) shrinkBiases(source);
    for (TensorRange& range : source.tensors)
        if (range.format == WeightFormat::mxfp4 && range.name.ends_with(".down.weight") && kind == 0)
            range.nibbles = formats::Nibbles::halves;
    return source;
}

// What MoE0 can hold, in float32 or float16.
LayerSource moe0Layer(uint32_t experts, WeightFormat format, uint32_t seed) {
    Description d{.model_dim = 48, .hidden_dim = 33, .experts = experts, .top_k = 1};
    d.score = Score::softmax_selected;
    d.activation = Activation::relu;
    d.shared = Shared::plain;
    d.shared_order = SharedOrder::first;
    d.shared_dim = d.hidden_dim;
    d.up_bias = d.down_bias = d.shared_up_bias = d.shared_down_bias = true;
    LayerSource layer = test::makeRandomLayer(d, format, seed).source;
    for (TensorRange& range : layer.tensors) {
        if (range.format == format) continue;
        range.bytes /= 2;  // some values of the right format in place of its own
        range.format = format;
        range.offset = layer.find("shared.up.weight")->offset;
    }
    return layer;
}

}  // namespace

TEST_CASE("pages from the store have the bytes that weights have on a device", "[paging]") {
    const uint32_t seed = Catch::getSeed();
    for (uint32_t i = 0; i < 48; ++i) {
        Random random(seed + i);
        const WeightFormat format = kFormats[i % 4];
        INFO(fmt::format("seed {}, {}", seed + i, name(format)));
        checkAlike(randomSource(random, format), i % 3 == 0);
    }
}

TEST_CASE("matrices of several slices have these bytes too", "[paging]") {
    Description d{.model_dim = 1031, .hidden_dim = 700, .experts = 1, .top_k = 1, .activation = Activation::relu};
    checkAlike(test::makeRandomLayer(d, WeightFormat::f16, 3).source);
    checkAlike(test::makeRandomLayer(d, WeightFormat::f32, 4).source);
}

TEST_CASE("a store numbers the experts of all layers, of any file", "[paging]") {
    test::Folder folder;
    std::vector<LayerSource> layers;
    PageBytes expected;
    for (uint32_t i = 0; i < 3; ++i) {
        const std::string path = folder / fmt::format("{}.moe0", i);
        auto written =
            formats::writeMoe0File(path, moe0Layer(2 + i, i == 1 ? WeightFormat::f16 : WeightFormat::f32, i));
        if (!written) FAIL(written.error().detail);
        layers.push_back(test::must(formats::openModel(path)).layers.front());
        for (Bytes& page : test::must(loadedPages(layers.back(), false))) expected.push_back(std::move(page));
    }
    auto store = test::must(ExpertStore::create(layers));
    CHECK(store->pages() == 2 + 3 + 4);
    CHECK(store->pageOf(2, 3) == 2 + 3 + 3);
    CHECK(test::must(readPages(*store)) == expected);
    for (PageId page = 0; page < store->pages(); ++page) {
        const bool halves = page >= store->pageOf(1, 0) && page < store->pageOf(2, 0);
        CHECK(store->pageBytes(page) == expected[page].size());
        CHECK(store->sourceBytes(page) == (halves ? 2 : 4) * (2 * 48 * 33 + 48 + 33));
    }
}

TEST_CASE("eight threads read pages at once", "[paging]") {
    Description d{.model_dim = 96, .hidden_dim = 64, .experts = 24, .top_k = 1, .up_bias = true};
    LayerSource source = test::makeRandomLayer(d, WeightFormat::bf16, 5).source;
    const PageBytes expected = test::must(loadedPages(source, false));
    auto store = test::must(ExpertStore::create({source, source}));
    std::atomic<uint32_t> wrong{0};
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < 8; ++t)
        threads.emplace_back([&, t] {
            Random random(t);
            Bytes scratch;
            for (uint32_t i = 0; i < 100; ++i) {
                PageId page = below(random, store->pages());
                Bytes bytes(store->pageBytes(page));
                if (!store->read(page, bytes, scratch) || bytes != expected[page % 24]) ++wrong;
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
}

TEST_CASE("10,000 random page-ins of a file's experts by eight threads: each slot has the bytes that weights have",
          "[paging]") {
    const uint32_t seed = Catch::getSeed(), experts = 48;
    CAPTURE(seed);
    test::Folder folder;
    const std::string path = folder / "layers.safetensors";
    Description d{.model_dim = 64, .hidden_dim = 32, .experts = experts, .top_k = 1, .up_bias = true};
    std::vector<LayerSource> made{test::makeRandomLayer(d, WeightFormat::f16, 6).source,
                                  test::makeRandomLayer(d, WeightFormat::mxfp4, 7).source};
    auto written = formats::writeLayerFile(path, made, true);
    if (!written) FAIL(written.error().detail);
    const auto layers = test::must(formats::openModel(path)).layers;
    PageBytes expected = test::must(loadedPages(layers[0], false));
    for (Bytes& page : test::must(loadedPages(layers[1], false))) expected.push_back(std::move(page));

    Device& device = cpuEngine().device();
    Buffer tables[] = {test::must(device.allocate(experts * 8, Memory::device, "table")),
                       test::must(device.allocate(experts * 8, Memory::device, "table"))};
    const uint64_t slot = std::max(expected.front().size(), expected.back().size());
    auto pager = test::must(Pager::create(device, test::must(ExpertStore::create(layers)),
                                          {{experts, &tables[0]}, {experts, &tables[1]}},
                                          {.device_budget = 12 * slot, .host_budget = 8 * slot, .readers = 8}));
    Random random(seed);
    uint64_t wrong = 0;
    for (uint32_t layer = 0; pager->counters().tier3 < 10000; layer = 1 - layer) {
        auto some = [&](uint32_t of) {
            std::vector<PageId> pages;
            const uint32_t share = below(random, 4) == 0 ? 1 : 3;  // all of them are read part by part
            for (uint32_t e = 0; e < experts; ++e)
                if (below(random, share) == 0) pages.push_back(of * experts + e);
            return pages;
        };
        REQUIRE(pager->start(some(layer)));
        while (!pager->done()) {
            Commands commands;
            REQUIRE(pager->next(commands));
            REQUIRE(pager->submit(commands));
            for (PageId page : pager->wave()) {
                auto bytes = pager->slotHolding(page)->bytes(expected[page].size());
                wrong += std::memcmp(bytes.data(), expected[page].data(), bytes.size()) != 0;
            }
        }
        pager->readAhead(some(1 - layer));
    }
    CHECK(wrong == 0);
}

TEST_CASE("a file that shrinks, changes or holds what is not finite is named", "[paging]") {
    test::Folder folder;
    const std::string path = folder / "layers.safetensors";
    Description d{.model_dim = 32, .hidden_dim = 32, .experts = 2, .top_k = 1};
    std::vector<LayerSource> layers{test::makeRandomLayer(d, WeightFormat::f16, 9).source};
    auto error = [&](const auto& change) {
        REQUIRE(formats::writeLayerFile(path, layers, false));
        auto store = test::must(ExpertStore::create(test::must(formats::openModel(path)).layers));
        change();
        auto pages = readPages(*store);
        return pages ? "" : pages.error().detail;
    };
    const auto before = [&] { return std::filesystem::file_size(path); };
    CHECK(error([] {}) == "");
    CHECK(error([&] { std::filesystem::remove(path); }) == "");  // it is still there for those who opened it
    CHECK(error([&] { std::filesystem::resize_file(path, before() - 1); }).find(path + ": changed") == 0);
    CHECK(error([&] { std::filesystem::resize_file(path, 0); }).find(path + ": changed") == 0);
    CHECK(error([&] {
              std::filesystem::last_write_time(path,
                                               std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
          }).find(path + ": changed") == 0);

    Bytes bytes = allBytes(layers[0]);
    const TensorRange& down = *layers[0].find("experts.1.down.weight");
    bytes[down.offset + 2 * 37 + 1] = bytes[down.offset + 2 * 40 + 1] = std::byte{0x7c};
    layers[0].bytes = memorySource("poisoned", bytes);
    auto stored = storedPages(layers, false);
    REQUIRE(!stored);
    CHECK(stored.error().detail ==
          "poisoned: experts.1.down.weight holds 2 values that are not finite or not below 2^63 in size, the first at "
          "row 1, column 5");
    checkAlike(layers[0]);
}
