#include "engine/formats/model_source.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/formats/check_values.h"
#include "engine/formats/layer_file.h"
#include "engine/formats/moe0.h"
#include "engine/formats/moe0_write.h"
#include "tests/formats/layer_builder.h"
#include "tests/formats/test_folder.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;
using test::Bytes;
using test::checkSame;
using test::get;
using test::mustRead;
using test::put;
using test::TestLayer;

TEST_CASE("MoE0 files become layer files and come back as they were", "[formats][layer_file][moe0]") {
    test::Folder folder;
    for (const bool fp16 : {false, true}) {
        const auto bytes = initMoe0({20, 24, 5, 3}, 7, fp16);
        REQUIRE(bytes);
        put(folder / "a.moe0", bytes.value());
        const auto model = openModel(folder / "a.moe0");
        REQUIRE(model);
        test::checkSound(model.value());
        REQUIRE(writeLayerFile(folder / "a.safetensors", model.value().layers, false));
        const auto layer = openModel(folder / "a.safetensors");
        REQUIRE(layer);
        checkSame(model.value(), layer.value());
        REQUIRE(writeMoe0File(folder / "b.moe0", layer.value().layers[0]));
        CHECK((get(folder / "b.moe0") == bytes.value()));
    }
}

TEST_CASE("MoE0 takes what it can express, widened where formats differ", "[formats][layer_file][moe0]") {
    test::Folder folder;
    const auto write = [&](const TestLayer& layer) -> std::string {
        const ModelSource model = mustRead(layer);
        const auto written = writeMoe0File(folder / "a.moe0", model.layers[0]);
        return written ? "" : written.error().detail;
    };
    TestLayer mixed = TestLayer::relu("F16");
    CHECK(write(mixed).empty());
    CHECK(get(folder / "a.moe0").size() == 24 + 2 * 244);
    mixed["router.weight"].dtype = "BF16";
    CHECK(write(mixed).empty());
    CHECK(get(folder / "a.moe0").size() == 24 + 4 * 244);
    std::filesystem::remove(folder / "a.moe0");

    const std::pair<const char*, const char*> rows[] = {
        {R"("score":"softmax")", "score is softmax, in MoE0 it is softmax_selected"},
        {R"("score":"softmax_selected","renormalize":true)", "renormalize is true, in MoE0 it is false"},
        {R"("score":"softmax_selected","routed_scale":1.5)", "routed_scale is 1.5, in MoE0 it is 1"},
        {R"("score":"softmax_selected","groups":3,"groups_kept":2)", "groups is 3, in MoE0 it is 1"},
        {R"("score":"softmax_selected","dispatch":"capacity")", "dispatch is capacity, in MoE0 it is dropless"},
        {R"("score":"softmax_selected","noise_std":0.5)", "noise_std is 0.5, in MoE0 it is 0"},
        {R"("score":"softmax_selected","shared_order":"last")", "shared_order is last, in MoE0 it is first"},
    };
    for (const auto& [fields, sentence] : rows) {
        TestLayer layer = TestLayer::relu();
        const bool ordered = std::string(fields).find("shared_order") != std::string::npos;
        layer.description = R"({"top_k":2,"activation":"relu",)" + std::string(fields) +
                            (ordered ? "}" : R"(,"shared_order":"first"})");
        CHECK_THAT(write(layer), ContainsSubstring(std::string("x.safetensors: ") + sentence));
    }
    const auto without = [&](const char* name) {
        TestLayer layer = TestLayer::relu();
        layer.remove(name);
        return write(layer);
    };
    CHECK_THAT(without("experts.up.bias"), ContainsSubstring("experts.up.bias is false, in MoE0 it is true"));
    CHECK_THAT(without("shared.down.bias"), ContainsSubstring("shared.down.bias is false, in MoE0 it is true"));
    TestLayer wide = TestLayer::relu();
    wide["shared.up.weight"].shape = {7, 4};
    wide["shared.up.bias"].shape = {7};
    wide["shared.down.weight"].shape = {4, 7};
    CHECK_THAT(write(wide), ContainsSubstring("shared_dim is 7, in MoE0 it is 6"));
    CHECK_THAT(write(TestLayer::silu()), ContainsSubstring("score is softmax"));
    CHECK(folder.empty());
}

TEST_CASE("values that no engine computes with are found", "[formats][layer_file]") {
    const auto errorWith = [](TestLayer layer, const char* tensor, size_t at, uint32_t bits, size_t width) {
        Bytes bytes = layer.bytes();
        const auto header = SafetensorsHeader::read(*memorySource("x", bytes));
        REQUIRE(header);
        for (size_t i = 0; i < header.value().size(); ++i) {
            const auto found = header.value().at(i);
            std::fill_n(bytes.begin() + ptrdiff_t(found.offset), found.bytes, std::byte{0});
            if (found.name == tensor) std::memcpy(&bytes[found.offset + at * width], &bits, width);
        }
        const auto model = test::readLayers(bytes);
        REQUIRE(model);
        const auto checked = checkValues(model.value().layers[0]);
        return checked ? "no error" : checked.error().detail;
    };
    const std::string strange = " holds 1 values that are not finite or not below 2^63 in size, the first at ";
    const TestLayer silu = TestLayer::silu();
    CHECK(errorWith(silu, "router.weight", 5, 0x7fc00000, 4) ==
          "x.safetensors: router.weight" + strange + "row 1, column 1");
    CHECK(errorWith(silu, "router.weight", 5, 0xdf000000, 4) ==
          "x.safetensors: router.weight" + strange + "row 1, column 1");
    CHECK(errorWith(silu, "router.weight", 5, 0xdeffffff, 4) == "no error");
    CHECK(errorWith(silu, "experts.up.weight", 24 + 7, 0x7c00, 2) ==
          "x.safetensors: experts.up.weight[1]" + strange + "row 1, column 3");
    CHECK(errorWith(silu, "experts.up.weight", 24 + 7, 0x7bff, 2) == "no error");
    CHECK(errorWith(silu, "experts.up.bias", 17, 0x5f00, 2) ==
          "x.safetensors: experts.up.bias[2]" + strange + "element 5");
    CHECK(errorWith(silu, "experts.up.bias", 17, 0x5eff, 2) == "no error");
    const TestLayer mxfp4 = TestLayer::mxfp4();
    CHECK(errorWith(mxfp4, "experts.up.scales", 3, 254, 1) == "no error");  // all codes are zero
    CHECK(errorWith(mxfp4, "experts.up.scales", 64 + 3, 255, 1) ==
          "x.safetensors: experts.up.scales[1] holds 255 at row 3, block 0, which is no scale");
    CHECK(errorWith(mxfp4, "experts.down.scales", 64 + 7, 255, 1) ==
          "x.safetensors: experts.down.scales[1] holds 255 at row 3, block 1, which is no scale");
}

TEST_CASE("a model is found by path, by folder and by content", "[formats][model]") {
    test::Folder folder;
    const auto error = [](const std::string& path) {
        const auto model = openModel(path);
        REQUIRE(!model);
        return model.error().detail;
    };
    const std::string single = folder / "model.safetensors";
    put(single, TestLayer::silu().bytes());
    CHECK(openModel(single));
    CHECK(openModel(folder.path()));
    put(folder / "nameless", TestLayer::silu().bytes());
    CHECK(openModel(folder / "nameless"));
    put(folder / "named.safetensors", initMoe0({4, 6, 3, 2}).value());
    CHECK(openModel(folder / "named.safetensors").value().format == FileFormat::moe0);
    put(folder / "wide.moe0", initMoe0({1, 32769, 1, 1}).value());
    CHECK_THAT(error(folder / "wide.moe0"), ContainsSubstring("wide.moe0: hidden_dim is 32769, must be 1 to 32768"));
    put(folder / "text", test::text("hello, world"));
    CHECK_THAT(error(folder / "text"), ContainsSubstring("text: magic is"));
    CHECK_THAT(error(folder / "missing"), ContainsSubstring("missing: cannot be opened"));
    CHECK_THAT(error(folder / "missing/"), ContainsSubstring("missing/: cannot be opened"));

    // The same layer in two files.
    TestLayer first = TestLayer::silu(), second = first;
    first.tensors.resize(7);
    second.tensors.erase(second.tensors.begin(), second.tensors.begin() + 7);
    second.description = first.description;
    nlohmann::json map;
    for (const auto& tensor : first.tensors) map[tensor.name] = "a.safetensors";
    for (const auto& tensor : second.tensors) map[tensor.name] = "b.safetensors";
    put(folder / "a.safetensors", first.bytes());
    put(folder / "b.safetensors", second.bytes());
    put(folder / "model.safetensors.index.json", test::text(nlohmann::json{{"weight_map", map}}.dump()));
    const auto sharded = openModel(folder.path());
    REQUIRE(sharded);
    test::checkSound(sharded.value());
    const LayerSource& layer = sharded.value().layers[0];
    CHECK(layer.place(*layer.find("shared.up.weight")) == (folder.path() + "/b.safetensors: tensor shared.up.weight"));
    put(folder / "index", get(folder / "model.safetensors.index.json"));
    CHECK(openModel(folder / "index"));
    second["shared.up.weight"].dtype = "I32";
    put(folder / "b.safetensors", second.bytes());
    CHECK_THAT(error(folder.path()), ContainsSubstring("/b.safetensors: tensor shared.up.weight is I32, must be F32"));
}
