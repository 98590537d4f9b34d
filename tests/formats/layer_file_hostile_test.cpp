// Damaged layer files: every prefix, every flipped bit of the header, alone, as a stack and in several files.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>

#include "engine/formats/layer_file.h"
#include "tests/formats/layer_builder.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;
using test::Bytes;
using test::TestLayer;

namespace {

uint64_t headerEnd(const Bytes& bytes) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    return 8 + length;
}

Bytes flipped(Bytes bytes, size_t bit) {
    bytes[bit / 8] ^= std::byte(1 << bit % 8);
    return bytes;
}

void checkOutcome(const Result<ModelSource>& model) {
    if (model) return test::checkSound(model.value());
    REQUIRE(model.error().code == ErrorCode::bad_input);
    REQUIRE_THAT(model.error().detail, ContainsSubstring("x.safetensors: "));
    REQUIRE(model.error().detail.find('\n') == std::string::npos);
}

TestLayer stack() {
    TestLayer both = TestLayer::relu();
    for (auto& tensor : both.tensors) tensor.name = "layers.0." + tensor.name;
    TestLayer second = TestLayer::relu();
    for (auto& tensor : second.tensors) tensor.name = "layers.1." + tensor.name;
    both.append(second);
    both.description.back() = ',';
    both.description += R"("layers.1":{"top_k":1}})";
    return both;
}

// A layer in a.x.safetensors and x.safetensors, the second damaged.
Result<ModelSource> readSharded(const Bytes& first, const Bytes& second, const std::string& index) {
    const OpenShard open = [&](const std::string& name) -> Result<std::shared_ptr<const ByteSource>> {
        return memorySource(name, name == "x.safetensors" ? second : first);
    };
    VKMOE_TRY(files, SafetensorsFiles::openIndex(*memorySource("i.json", test::text(index)), open));
    return readLayerFile(files);
}

}  // namespace

TEST_CASE("every prefix of a layer file is refused", "[formats][layer_file][hostile]") {
    for (const TestLayer& layer : {TestLayer::silu(), TestLayer::mxfp4(), stack()}) {
        const Bytes whole = layer.bytes();
        REQUIRE(test::layerError(whole) == "no error");
        for (size_t length = 0; length < whole.size(); ++length) {
            CAPTURE(length);
            REQUIRE_THAT(test::layerError({whole.begin(), whole.begin() + ptrdiff_t(length)}),
                         ContainsSubstring("x.safetensors: "));
        }
    }
}

TEST_CASE("every flipped bit of a layer file's header gives an error or a sound model",
          "[formats][layer_file][hostile]") {
    for (const TestLayer& layer : {TestLayer::silu(), TestLayer::mxfp4(), stack()}) {
        const Bytes whole = layer.bytes();
        for (size_t bit = 0; bit < headerEnd(whole) * 8; ++bit) {
            CAPTURE(bit);
            checkOutcome(test::readLayers(flipped(whole, bit)));
        }
    }
}

TEST_CASE("damage to one of several files names that file", "[formats][layer_file][hostile]") {
    TestLayer first = TestLayer::silu(), second = first;
    first.tensors.resize(9);
    second.tensors.erase(second.tensors.begin(), second.tensors.begin() + 9);
    std::string index;
    for (const auto& tensor : first.tensors) index += ",\"" + tensor.name + "\":\"a.x.safetensors\"";
    for (const auto& tensor : second.tensors) index += ",\"" + tensor.name + "\":\"x.safetensors\"";
    index = "{\"weight_map\":{" + index.substr(1) + "}}";
    const Bytes whole = second.bytes();
    REQUIRE(readSharded(first.bytes(), whole, index));
    for (size_t length = 0; length < whole.size(); length += 3) {
        CAPTURE(length);
        const auto model = readSharded(first.bytes(), {whole.begin(), whole.begin() + ptrdiff_t(length)}, index);
        REQUIRE(!model);
        REQUIRE(model.error().detail.starts_with("x.safetensors: "));
    }
    for (size_t bit = 0; bit < headerEnd(whole) * 8; ++bit) {
        CAPTURE(bit);
        const auto model = readSharded(first.bytes(), flipped(whole, bit), index);
        if (model)
            test::checkSound(model.value());
        else
            REQUIRE(!model.error().detail.empty());
    }
    for (size_t bit = 0; bit < index.size() * 8; ++bit) {
        CAPTURE(bit);
        std::string changed = index;
        changed[bit / 8] = char(changed[bit / 8] ^ 1 << bit % 8);
        const auto model = readSharded(first.bytes(), whole, changed);
        if (model) test::checkSound(model.value());
    }
}

TEST_CASE("small files that claim many experts are refused before these are listed", "[formats][layer_file][hostile]") {
    TestLayer stack;
    stack.tensors.clear();
    for (int n = 0; n < 100; ++n) {
        const std::string prefix = "layers." + std::to_string(n) + ".";
        stack.append({{},
                      {{prefix + "router.weight", "F16", {1024, 1}},
                       {prefix + "experts.gate.weight", "F16", {1024, 1, 1}},
                       {prefix + "experts.up.weight", "F16", {1024, 1, 1}},
                       {prefix + "experts.down.weight", "F16", {1024, 1, 1}}}});
    }
    CHECK(test::layerError(stack.bytes()) == "x.safetensors: experts have more than 200000 tensors");
}
