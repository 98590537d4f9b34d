// What overflows inside an expert is told by token and expert, wherever the values came about.
#include "engine/moe/slot_table.h"

#include <catch2/catch_test_macros.hpp>

#include "engine/formats/evl0.h"
#include "engine/formats/moe0.h"
#include "tests/engines.h"
#include "tests/must.h"
#include "vkmoe/language_model.h"
#include "vkmoe/layer.h"
#include "vkmoe/layer_trainer.h"
#include "vkmoe/lm_trainer.h"

using namespace vkmoe;
using test::must;

namespace {

constexpr uint32_t kWidth = 4, kHidden = 2, kChoices = 3;
constexpr float kHuge = 9e18f;  // just below 2^63

// Experts that a token's first positive value chooses; the hidden values of expert 1 are kHuge times the value.
std::vector<float> oneHugeExpert() {
    std::vector<float> parameters(kChoices * kWidth + (kChoices + 1) * (2 * kHidden * kWidth + kHidden + kWidth));
    for (uint32_t e = 0; e < kChoices; ++e) parameters[e * kWidth + e] = 1;
    const size_t expert = 2 * kHidden * kWidth + kHidden + kWidth;
    auto first = parameters.begin() + ptrdiff_t(kChoices * kWidth + 2 * expert);
    std::fill(first, first + kHidden * kWidth, kHuge);
    return parameters;
}

formats::LayerSource hugeLayer() {
    auto bytes = must(formats::writeMoe0({kWidth, kHidden, kChoices, 1}, oneHugeExpert()));
    return must(formats::readMoe0(memorySource("huge", std::move(bytes))));
}

// Two layers without convolutions; a token chooses expert id % 3 of the first, which does something huge with it.
formats::LmSource hugeModel() {
    LmConfig config{5, kWidth, 2, 0, kHidden, kChoices, 1};
    auto parameters = must(formats::initialLm(config, 5));
    for (uint32_t v = 0; v < 5; ++v)
        for (uint32_t c = 0; c < kWidth; ++c) parameters[v * kWidth + c] = c == v % kChoices ? 1 : 0;
    auto mixture = oneHugeExpert();
    std::copy(mixture.begin(), mixture.end(), parameters.begin() + 5 * kWidth + 2 * kWidth);
    return must(formats::readEvl0(memorySource("huge", must(formats::writeEvl0(config, parameters)))));
}

template <class T>
std::string detailOf(const Result<T>& result) {
    return result ? "no error" : result.error().detail;
}

const std::string kHiddenValues = " values are not finite or not below 2^63 in size, the first at ";

}  // namespace

TEST_CASE("slots have tokens and experts", "[slots]") {
    const uint32_t selected[] = {2, 0, 2, 9, 0, 3, 2, 2};  // two of each of four tokens; 9 is none of four
    const SlotTable table = SlotTable::of(selected, 2, 4);
    CHECK(table.offsets == std::vector<uint32_t>{0, 2, 2, 6, 7});
    CHECK(table.token_of == std::vector<uint32_t>{0, 2, 0, 1, 3, 3, 2});
    CHECK(table.place(0, 0) == "token 0, expert 0");
    CHECK(table.place(1, 100) == "token 102, expert 0");
    CHECK(table.place(3, 0) == "token 1, expert 2");
    CHECK(table.place(6, 0) == "token 2, expert 3");
    CHECK(table.place(7, 0) == "slot 7");
    CHECK(SlotTable{}.place(1, 0) == "slot 1");
}

TEST_CASE("an overflow in an expert names the token and the expert", "[slots][layer][device][wide]") {
    std::vector<float> x(12 * kWidth), y(x);
    for (uint32_t t = 0; t < 12; ++t) x[t * kWidth + t % kChoices] = t < 7 ? 0.5f : 4;
    const std::string expected = "the experts' hidden values: 4" + kHiddenValues + "token 7, expert 1, element 0";
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        auto layer = must(Layer::create(*engine, hugeLayer()));
        CHECK(detailOf(layer.forward(x)) == expected);
        const std::string one = "the experts' hidden values: 2" + kHiddenValues + "token 7, expert 1, element 0";
        CHECK(detailOf(layer.forward(x, {.max_batch = 5})) == one);
        auto trainer = must(LayerTrainer::create(*engine, hugeLayer(), {}));
        CHECK(detailOf(trainer.epoch(x, y, {.batch_size = 12})) == expected);
        auto in_chunks = must(LayerTrainer::create(*engine, hugeLayer(), {.max_chunk = 5}));
        CHECK(detailOf(in_chunks.epoch(x, y, {.batch_size = 12})) == one);
    }
}

TEST_CASE("an overflow in an expert of a language model names the token and the expert", "[slots][lm][device]") {
    const std::vector<uint32_t> text{0, 3, 2, 1, 0, 4};
    const std::string expected =
        "layers.0.moe: the experts' hidden values: 4" + kHiddenValues + "token 3, expert 1, element 0";
    const auto source = hugeModel();
    for (Engine* engine : test::engines()) {
        CAPTURE(engine->device().info().name);
        auto model = must(LanguageModel::create(*engine, source));
        CHECK(detailOf(model.logits(text)) == expected);
        std::vector<uint32_t> longer(300);  // more than a pass takes
        longer[280] = 1;
        CHECK(detailOf(model.logits(longer)) ==
              "layers.0.moe: the experts' hidden values: 2" + kHiddenValues + "token 280, expert 1, element 0");
        auto paged =
            must(LanguageModel::create(*engine, source, PagingOptions{.device_budget = 1024, .host_budget = 1024}));
        CHECK(detailOf(paged.logits(text)) == expected);
        for (bool again : {false, true}) {
            auto trainer = must(LmTrainer::create(*engine, source, {.checkpoint_activations = again}));
            std::vector<Sequence> one{text};
            CHECK(detailOf(trainer.accumulate(one)) == expected);
        }
    }
}
