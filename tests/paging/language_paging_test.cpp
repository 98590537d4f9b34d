// A language model with its experts in pages of its file: the texts and logits of one that is all on the device.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>

#include "engine/formats/crc_trailer.h"
#include "engine/formats/evl0.h"
#include "tests/engines.h"
#include "vkmoe/language_model.h"

using namespace vkmoe;

TEST_CASE("a language model with its experts in the file writes the same text, from the same logits", "[paging][lm]") {
    LmConfig config{
        .vocab_size = 40, .model_dim = 24, .layers = 3, .conv_kernel = 4, .hidden_dim = 32, .experts = 6, .top_k = 2};
    auto parameters = formats::initialLm(config, 5);
    REQUIRE(parameters);
    std::vector<uint32_t> prompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 35};
    for (Engine* engine : test::engines())
        for (auto [fp16, precision] : {std::pair{false, Precision::exact},
                                       {true, Precision::exact},
                                       {false, Precision::rounded},
                                       {true, Precision::rounded}}) {
            INFO(engine->device().info().name);
            CAPTURE(precision == Precision::rounded);
            auto file =
                formats::readEvl0(memorySource("model.evl0", formats::writeEvl0(config, *parameters, fp16).value()));
            REQUIRE(file);
            auto whole = LanguageModel::create(*engine, *file, precision);
            REQUIRE(whole);
            auto text = whole->generate(prompt, {.max_new_tokens = 12});
            auto logits = whole->logits(prompt);
            REQUIRE((text && logits));
            const uint64_t page = 8192;  // at most, of either format
            for (uint64_t slots : {1, 5, 30})
                for (auto [placement, host] : {std::pair(Placement::flat, HostCompute::never),
                                               {Placement::tiered, HostCompute::never},
                                               {Placement::tiered, HostCompute::always}}) {
                    CAPTURE(slots, fp16, placement == Placement::flat, host == HostCompute::always);
                    auto paged = LanguageModel::create(*engine, *file,
                                                       PagingOptions{.device_budget = slots * page,
                                                                     .host_budget = page,
                                                                     .placement = placement,
                                                                     .host_compute = host,
                                                                     .trace = true},
                                                       precision);
                    if (!paged) FAIL(paged.error().detail);
                    auto paged_text = paged->generate(prompt, {.max_new_tokens = 12});
                    auto report = paged->takePaging();
                    auto paged_logits = paged->logits(prompt);
                    REQUIRE((paged_text && paged_logits && report));
                    CHECK(*paged_text == *text);
                    CHECK(*paged_logits == *logits);
                    CHECK(report->visits.size() == 12 * 3);
                    CHECK(report->all_resident == (slots == 30));
                    if (slots == 1) CHECK(report->counters.tier3 > 0);
                    if (slots == 5 && placement == Placement::flat) CHECK(report->counters.prefetched > 0);
                    const bool shares = host == HostCompute::always && slots != 30 && !test::isHost(*engine);
                    CHECK((report->counters.host_computed > 0) == shares);
                }
        }
}

TEST_CASE("a number in an expert that cannot be computed with is named as the file names it", "[paging][lm]") {
    LmConfig config{
        .vocab_size = 9, .model_dim = 8, .layers = 2, .conv_kernel = 2, .hidden_dim = 5, .experts = 3, .top_k = 3};
    auto parameters = formats::initialLm(config, 5);
    REQUIRE(parameters);
    for (const LmTensor& tensor : lmTensors(config)) {
        auto bytes = formats::writeEvl0(config, *parameters).value();
        bytes.resize(bytes.size() - formats::kTrailerBytes);
        const float infinity = INFINITY;
        std::memcpy(&bytes[formats::kEvl0HeaderBytes + 4 * (tensor.first + tensor.count - 1)], &infinity, 4);
        formats::appendTrailer(bytes);
        auto file = formats::readEvl0(memorySource("model.evl0", std::move(bytes)));
        REQUIRE(file);
        for (Precision precision : {Precision::exact, Precision::rounded}) {
            CAPTURE(tensor.name, precision == Precision::rounded);
            auto whole = LanguageModel::create(*test::engines()[0], *file, precision);
            REQUIRE(!whole);
            CHECK(whole.error().code == ErrorCode::bad_input);
            CHECK(whole.error().detail.find(tensor.name + " ") != std::string::npos);
            auto paged = LanguageModel::create(*test::engines()[0], *file,
                                               PagingOptions{.device_budget = 1024, .host_budget = 1024}, precision);
            auto logits =
                paged ? paged->logits(std::vector<uint32_t>{1, 2, 3}) : Result<std::vector<float>>(paged.error());
            REQUIRE(!logits);
            CHECK(logits.error().detail.find(tensor.name + " ") != std::string::npos);
        }
    }
}
