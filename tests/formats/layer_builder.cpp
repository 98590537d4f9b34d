#include "tests/formats/layer_builder.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/formats/description_json.h"
#include "engine/formats/layer_tensors.h"
#include "engine/formats/safetensors.h"

namespace test {

using namespace vkmoe;
using namespace vkmoe::formats;
using Json = nlohmann::ordered_json;

Bytes text(const std::string& content) {
    Bytes bytes(content.size());
    if (!content.empty()) std::memcpy(bytes.data(), content.data(), content.size());
    return bytes;
}

Bytes safetensors(const std::string& header, size_t data_bytes) {
    Bytes bytes(8 + header.size() + data_bytes);
    const uint64_t length = header.size();
    std::memcpy(bytes.data(), &length, 8);
    std::memcpy(bytes.data() + 8, header.data(), header.size());
    for (size_t i = 0; i < data_bytes; ++i) bytes[8 + header.size() + i] = std::byte(i % 251);
    return bytes;
}

Bytes safetensors(const std::vector<TestTensor>& tensors, const std::string& description_json,
                  const std::map<std::string, std::string>& more_metadata) {
    Json header = {{"__metadata__", {{"format", "pt"}}}};
    if (!description_json.empty()) header["__metadata__"]["vkmoe.moe"] = description_json;
    for (const auto& [key, value] : more_metadata) header["__metadata__"][key] = value;
    uint64_t end = 0;
    for (const TestTensor& tensor : tensors) {
        uint64_t bits = std::max(safetensorsBits(tensor.dtype), 8u);
        for (const uint64_t n : tensor.shape) bits *= n;
        header[tensor.name] = {
            {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {end, end + bits / 8}}};
        end += bits / 8;
    }
    return safetensors(header.dump(), end);
}

TestLayer TestLayer::silu(const std::string& prefix) {
    TestLayer layer;
    layer.tensors = {{"router.weight", "F32", {3, 4}},        {"router.bias", "F16", {3}},
                     {"router.selection_bias", "F32", {3}},   {"experts.gate.weight", "BF16", {3, 6, 4}},
                     {"experts.up.weight", "F16", {3, 6, 4}}, {"experts.down.weight", "F32", {3, 4, 6}},
                     {"experts.gate.bias", "F32", {3, 6}},    {"experts.up.bias", "BF16", {3, 6}},
                     {"experts.down.bias", "F32", {3, 4}},    {"shared.gate.weight", "F16", {5, 4}},
                     {"shared.up.weight", "F32", {5, 4}},     {"shared.down.weight", "BF16", {4, 5}},
                     {"shared.gate.bias", "F32", {5}},        {"shared.up.bias", "F32", {5}},
                     {"shared.down.bias", "F32", {4}},        {"shared.router.weight", "F32", {4}}};
    for (TestTensor& tensor : layer.tensors) tensor.name = prefix + tensor.name;
    return layer;
}

TestLayer TestLayer::relu(const std::string& dtype) {
    TestLayer layer;
    layer.description =
        R"({"top_k":2,"score":"softmax_selected","activation":"relu","shared":"plain","shared_order":"first"})";
    layer.tensors = {{"router.weight", dtype, {3, 4}},     {"experts.up.weight", dtype, {3, 6, 4}},
                     {"experts.up.bias", dtype, {3, 6}},   {"experts.down.weight", dtype, {3, 4, 6}},
                     {"experts.down.bias", dtype, {3, 4}}, {"shared.up.weight", dtype, {6, 4}},
                     {"shared.up.bias", dtype, {6}},       {"shared.down.weight", dtype, {4, 6}},
                     {"shared.down.bias", dtype, {4}}};
    return layer;
}

TestLayer TestLayer::mxfp4(const std::string& prefix) {
    TestLayer layer;
    layer.description = R"({"top_k":1,"score":"softmax_selected","activation":"clamped_swiglu"})";
    layer.tensors = {{"router.weight", "BF16", {2, 32}},        {"experts.gate.blocks", "U8", {2, 64, 1, 16}},
                     {"experts.gate.scales", "U8", {2, 64, 1}}, {"experts.up.blocks", "U8", {2, 64, 1, 16}},
                     {"experts.up.scales", "U8", {2, 64, 1}},   {"experts.down.blocks", "U8", {2, 32, 2, 16}},
                     {"experts.down.scales", "U8", {2, 32, 2}}, {"shared.gate.weight", "F32", {32, 32}},
                     {"shared.up.blocks", "U8", {32, 1, 16}},   {"shared.up.scales", "U8", {32, 1}},
                     {"shared.down.weight", "F16", {32, 32}}};
    for (TestTensor& tensor : layer.tensors) tensor.name = prefix + tensor.name;
    return layer;
}

TestTensor& TestLayer::operator[](const std::string& name) {
    const auto found =
        std::find_if(tensors.begin(), tensors.end(), [&](const TestTensor& tensor) { return tensor.name == name; });
    if (found != tensors.end()) return *found;
    return tensors.emplace_back(TestTensor{name, "F32", {}});
}

void TestLayer::remove(const std::string& name) {
    REQUIRE(std::erase_if(tensors, [&](const TestTensor& tensor) { return tensor.name == name; }) == 1);
}

void TestLayer::append(const TestLayer& other) {
    tensors.insert(tensors.end(), other.tensors.begin(), other.tensors.end());
}

Result<ModelSource> readLayers(const Bytes& bytes) { return readModel(memorySource("x.safetensors", Bytes(bytes))); }

std::string layerError(const Bytes& bytes) {
    const auto model = readLayers(bytes);
    if (model) return "no error";
    CHECK(model.error().code == ErrorCode::bad_input);
    return model.error().detail;
}

namespace {

void checkTensor(const LayerSource& layer, TensorRole role, const std::string& name) {
    const TensorRange* tensor = layer.find(name);
    REQUIRE(tensor != nullptr);
    REQUIRE(tensor->shape == valueShape(role, layer.description));
    uint64_t count = 1;
    for (const uint64_t n : tensor->shape) count *= n;
    REQUIRE(tensor->bytes == formatBytes(tensor->format, count));
    Bytes into(tensor->bytes);
    REQUIRE(layer.bytes->read(tensor->offset, into));
    if (tensor->format != WeightFormat::mxfp4) return;
    REQUIRE(tensor->scales_bytes == count / 32);
    into.resize(tensor->scales_bytes);
    REQUIRE(layer.bytes->read(tensor->scales_offset, into));
}

}  // namespace

void checkSound(const ModelSource& model) {
    REQUIRE(!model.layers.empty());
    for (const LayerSource& layer : model.layers) {
        REQUIRE(validate(layer.description));
        REQUIRE(layer.description.model_dim == model.layers[0].description.model_dim);
        for (const TensorRole role : allRoles()) {
            if (!isPresent(role, layer.description)) continue;
            const RoleShape& shape = shapeOf(role);
            if (!shape.routed) checkTensor(layer, role, shape.name());
            for (uint32_t e = 0; shape.routed && e < layer.description.experts; ++e)
                checkTensor(layer, role, shape.expertName(e));
        }
    }
}

Bytes contents(const LayerSource& layer, const std::string& name) {
    const TensorRange* tensor = layer.find(name);
    REQUIRE(tensor != nullptr);
    Bytes bytes;
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Result<void> {
        bytes.insert(bytes.end(), piece.begin(), piece.end());
        return {};
    };
    REQUIRE(copyTensor(*layer.bytes, *tensor, sink));
    if (tensor->format == WeightFormat::mxfp4) REQUIRE(copyScales(*layer.bytes, *tensor, sink));
    return bytes;
}

ModelSource mustRead(const TestLayer& layer) {
    auto model = readLayers(layer.bytes());
    INFO((model ? "" : model.error().detail));
    REQUIRE(model);
    checkSound(model.value());
    return std::move(*model);
}

void put(const std::string& path, const Bytes& bytes) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
}

Bytes get(const std::string& path) {
    const auto bytes = readFile(path);
    REQUIRE(bytes);
    return bytes.value();
}

void checkSame(const ModelSource& a, const ModelSource& b) {
    REQUIRE(a.layers.size() == b.layers.size());
    CHECK(a.stack == b.stack);
    for (size_t n = 0; n < a.layers.size(); ++n) {
        REQUIRE(a.layers[n].tensors.size() == b.layers[n].tensors.size());
        const Description &one = a.layers[n].description, &other = b.layers[n].description;
        CHECK(descriptionToJson({&one, 1}) == descriptionToJson({&other, 1}));
        CHECK((one.model_dim == other.model_dim && one.hidden_dim == other.hidden_dim));
        CHECK((one.experts == other.experts && one.shared_dim == other.shared_dim));
        for (const TensorRange& tensor : a.layers[n].tensors) {
            CAPTURE(tensor.name);
            REQUIRE((contents(a.layers[n], tensor.name) == contents(b.layers[n], tensor.name)));
            CHECK(b.layers[n].find(tensor.name)->format == tensor.format);
        }
    }
}

}  // namespace test
