#include "engine/formats/layer_file.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <functional>

#include "tests/formats/layer_builder.h"
#include "tests/formats/test_folder.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;
using test::Bytes;
using test::checkSame;
using test::mustRead;
using test::TestLayer;

namespace {

TestLayer stackOf(const TestLayer& first, const TestLayer& second) {
    TestLayer stack = first;
    stack.append(second);
    return stack;
}

}  // namespace

TEST_CASE("a layer file is described by its tensors and its metadata", "[formats][layer_file]") {
    const ModelSource model = mustRead(TestLayer::silu());
    CHECK_FALSE(model.stack);
    CHECK(model.format == FileFormat::layer_file);
    const Description& d = model.layers.at(0).description;
    CHECK((d.model_dim == 4 && d.hidden_dim == 6 && d.experts == 3 && d.top_k == 2 && d.shared_dim == 5));
    CHECK((d.router_bias && d.selection_bias && d.gate_bias && d.up_bias && d.down_bias));
    CHECK((d.shared == Shared::sigmoid_gated && d.shared_gate_bias && d.shared_up_bias && d.shared_down_bias));
    CHECK(d.shared_order == SharedOrder::last);
}

TEST_CASE("experts' tensors are parts of the stacked ones", "[formats][layer_file]") {
    const ModelSource model = mustRead(TestLayer::silu());
    const LayerSource& layer = model.layers[0];
    CHECK(layer.tensors.size() == 3 + 6 * 3 + 7);
    const TensorRange* first = layer.find("experts.0.up.weight");
    const TensorRange* last = layer.find("experts.2.up.weight");
    REQUIRE((first != nullptr && last != nullptr));
    CHECK(last->label == "experts.up.weight[2]");
    CHECK(layer.place(*last) == "x.safetensors: tensor experts.up.weight[2]");
    CHECK(last->shape == std::vector<uint64_t>{6, 4});
    CHECK((last->format == WeightFormat::f16 && last->bytes == 48 && last->offset == first->offset + 96));
    CHECK(layer.find("experts.0.gate.weight")->format == WeightFormat::bf16);
    CHECK(layer.find("router.weight")->label == "router.weight");
    CHECK(layer.find("shared.router.weight")->shape == std::vector<uint64_t>{4});
    CHECK(layer.find("experts.3.up.weight") == nullptr);
}

TEST_CASE("optional tensors may be left out", "[formats][layer_file]") {
    TestLayer layer = TestLayer::silu();
    for (const char* name : {"router.bias", "router.selection_bias", "experts.gate.bias", "shared.up.bias"})
        layer.remove(name);
    Description d = mustRead(layer).layers[0].description;
    CHECK_FALSE((d.router_bias || d.selection_bias || d.gate_bias || d.shared_up_bias));
    CHECK((d.up_bias && d.shared_gate_bias));
    layer.remove("shared.router.weight");
    CHECK(mustRead(layer).layers[0].description.shared == Shared::plain);
    std::erase_if(layer.tensors, [](const auto& tensor) { return tensor.name.starts_with("shared."); });
    d = mustRead(layer).layers[0].description;
    CHECK((d.shared == Shared::none && d.shared_dim == 0 && !d.shared_gate_bias));
    CHECK(mustRead(TestLayer::relu()).layers[0].description.shared == Shared::plain);
}

TEST_CASE("MXFP4 experts have codes and scales", "[formats][layer_file]") {
    const ModelSource model = mustRead(TestLayer::mxfp4());
    const LayerSource& layer = model.layers[0];
    const TensorRange* down = layer.find("experts.1.down.weight");
    REQUIRE(down != nullptr);
    CHECK((down->format == WeightFormat::mxfp4 && down->nibbles == Nibbles::adjacent));
    CHECK(down->shape == std::vector<uint64_t>{32, 64});
    CHECK((down->bytes == 32 * 32 && down->scales_bytes == 32 * 2));
    CHECK(down->label == "experts.down.blocks[1]");
    CHECK(down->offset == layer.find("experts.0.down.weight")->offset + down->bytes);
    CHECK(down->scales_offset == layer.find("experts.0.down.weight")->scales_offset + down->scales_bytes);
    CHECK(layer.find("shared.up.weight")->format == WeightFormat::mxfp4);
    CHECK(layer.find("shared.gate.weight")->format == WeightFormat::f32);
}

TEST_CASE("what a layer file lacks or should not have is named", "[formats][layer_file][hostile]") {
    using Change = std::function<void(TestLayer&)>;
    struct Row {
        Change change;
        const char* sentence;
    };
    const auto remove = [](const char* name) -> Change { return [=](TestLayer& layer) { layer.remove(name); }; };
    const auto shape = [](const char* name, std::vector<uint64_t> to) -> Change {
        return [=](TestLayer& layer) { layer[name].shape = to; };
    };
    const auto dtype = [](const char* name, const char* to) -> Change {
        return [=](TestLayer& layer) { layer[name].dtype = to; };
    };
    const auto says = [](const char* json) -> Change { return [=](TestLayer& layer) { layer.description = json; }; };
    const Row rows[] = {
        {remove("router.weight"), "x.safetensors: tensor router.weight is missing"},
        {remove("experts.up.weight"), "x.safetensors: tensor experts.up.weight is missing"},
        {remove("experts.gate.weight"), "x.safetensors: tensor experts.gate.weight is missing"},
        {remove("experts.down.weight"), "x.safetensors: tensor experts.down.weight is missing"},
        {remove("shared.up.weight"), "x.safetensors: tensor shared.up.weight is missing"},
        {remove("shared.gate.weight"), "x.safetensors: tensor shared.gate.weight is missing"},
        {remove("shared.down.weight"), "x.safetensors: tensor shared.down.weight is missing"},
        {shape("router.weight", {4}), "tensor router.weight has shape [4], must have 2 dimensions"},
        {shape("router.weight", {3, 5}), "tensor experts.gate.weight has shape [3, 6, 4], must have [3, 6, 5]"},
        {shape("router.weight", {0, 4}), "x.safetensors: experts is 0, must be 1 to"},
        {shape("router.weight", {2000, 4}), "x.safetensors: experts is 2000, must be 1 to"},
        {shape("router.bias", {4}), "tensor router.bias has shape [4], must have [3]"},
        {shape("router.bias", {3, 1}), "tensor router.bias has shape [3, 1], must have [3]"},
        {shape("router.selection_bias", {}), "tensor router.selection_bias has shape [], must have [3]"},
        {shape("experts.up.weight", {3, 24}), "tensor experts.up.weight has shape [3, 24], must have 3 dimensions"},
        {shape("experts.up.weight", {2, 6, 4}), "tensor experts.up.weight has shape [2, 6, 4], must have [3, 6, 4]"},
        {shape("experts.up.weight", {3, 0, 4}), "x.safetensors: hidden_dim is 0, must be 1 to"},
        {shape("experts.down.weight", {3, 6, 4}), "experts.down.weight has shape [3, 6, 4], must have [3, 4, 6]"},
        {shape("experts.up.bias", {3, 4}), "tensor experts.up.bias has shape [3, 4], must have [3, 6]"},
        {shape("shared.up.weight", {4, 4}), "tensor shared.gate.weight has shape [5, 4], must have [4, 4]"},
        {shape("shared.down.bias", {5}), "tensor shared.down.bias has shape [5], must have [4]"},
        {shape("shared.router.weight", {1, 4}), "tensor shared.router.weight has shape [1, 4], must have [4]"},
        {dtype("router.weight", "F64"), "x.safetensors: tensor router.weight is F64, must be F32, F16 or BF16"},
        {dtype("router.weight", ""), "tensor router.weight is of no dtype (\"\"), must be F32, F16 or BF16"},
        {dtype("experts.up.weight", "I8"), "tensor experts.up.weight is I8, must be F32, F16 or BF16"},
        {dtype("shared.router.weight", "X9"), "tensor shared.router.weight is X9, must be F32, F16 or BF16"},
        {shape("lm_head.weight", {2}), "x.safetensors: tensor lm_head.weight is not one of a layer file's tensors"},
        {shape("router.blocks", {2}), "tensor router.blocks is not one of a layer file's tensors"},
        {shape("experts.3.up.weight", {2}), "tensor experts.3.up.weight is not one of a layer file's tensors"},
        {shape("layers.x.router.weight", {2}), "tensor layers.x.router.weight is not one of a layer file's tensors"},
        {shape("layers.00.router.bias", {2}), "tensor layers.00.router.bias is not one of a layer file's tensors"},
        {shape("layers.1.router.bias", {2}), "tensor layers.1.router.bias belongs to a layer, but others to none"},
        {says("{}"), "x.safetensors: vkmoe.moe: top_k is missing"},
        {says(R"({"top_k":4})"), "x.safetensors: top_k is 4, must be 1 to 3"},
        {says(R"({"top_k":0})"), "x.safetensors: top_k is 0, must be 1 to 3"},
        {says(R"({"top_k":1,"groups":2})"), "x.safetensors: groups is 2, must divide experts = 3"},
        {says(R"({"top_k":1,"sore":2})"), "x.safetensors: vkmoe.moe: sore is an unknown field"},
        {says(R"({"top_k":1,"layers.0":{}})"), "a description of layers.0, but there are no tensors of it"},
        {says(R"({"top_k":1,"router_bias":false})"),
         "vkmoe.moe: router_bias is false, but there is a tensor router.bias"},
        {says(R"({"top_k":1,"selection_bias":false})"),
         "vkmoe.moe: selection_bias is false, but there is a tensor router.selection_bias"},
        {says(R"({"top_k":1,"biases":false})"), "vkmoe.moe: biases is false, but there is a tensor experts."},
        {says(R"({"top_k":1,"shared_dim":6})"), "shared_dim is 6, but the shared expert's tensors have 5"},
        {says(R"({"top_k":1,"shared":"none"})"), "vkmoe.moe: shared is none, but there is a tensor shared.up.weight"},
        {says(R"({"top_k":1,"shared":"plain"})"),
         "vkmoe.moe: shared is plain, but there is a tensor shared.router.weight"},
        {says(R"({"top_k":1,"activation":"relu"})"), "activation is relu, which has no gate, but there is a gate bias"},
        {[](TestLayer& layer) {
             layer = TestLayer::relu();
             layer["experts.gate.weight"].shape = {3, 6, 4};
         },
         "tensor experts.gate.weight has no place in a layer whose activation is relu"},
        {[](TestLayer& layer) {
             layer.remove("router.bias");
             layer.description = R"({"top_k":1,"router_bias":true})";
         },
         "vkmoe.moe: router_bias is true, but there is no tensor router.bias"},
        {[](TestLayer& layer) {
             layer.remove("shared.router.weight");
             layer.description = R"({"top_k":1,"shared":"sigmoid_gated"})";
         },
         "vkmoe.moe: shared is sigmoid_gated, but there is no tensor shared.router.weight"},
        {[](TestLayer& layer) {
             layer = TestLayer::mxfp4();
             layer.remove("experts.up.scales");
         },
         "tensor experts.up.blocks is there, but not experts.up.scales"},
        {[](TestLayer& layer) {
             layer = TestLayer::mxfp4();
             layer.remove("experts.up.blocks");
         },
         "tensor experts.up.scales is there, but not experts.up.blocks"},
        {[](TestLayer& layer) {
             layer = TestLayer::mxfp4();
             layer["experts.up.weight"].shape = {2, 64, 32};
         },
         "tensor experts.up.weight is beside experts.up.blocks or .scales, must be alone"},
        {[](TestLayer& layer) {
             layer = TestLayer::mxfp4();
             layer["experts.up.blocks"].dtype = "I8";
         },
         "tensor experts.up.blocks is I8, must be U8"},
        {[](TestLayer& layer) {
             layer = TestLayer::mxfp4();
             layer["experts.down.scales"].shape = {2, 32, 1};
         },
         "tensor experts.down.scales has shape [2, 32, 1], must have [2, 32, 2]"},
        {[](TestLayer& layer) {
             layer = TestLayer::mxfp4();
             layer["experts.gate.blocks"].shape = {2, 64, 16};
         },
         "tensor experts.gate.blocks has shape [2, 64, 16], must have [2, 64, 1, 16]"},
        {[](TestLayer& layer) {
             layer = TestLayer::mxfp4();
             layer["router.weight"].shape = {2, 40};
         },
         "has rows of 40 values, must be a multiple of 32"},
    };
    for (const Row& row : rows) {
        TestLayer layer = TestLayer::silu();
        row.change(layer);
        CAPTURE(row.sentence);
        CHECK_THAT(test::layerError(layer.bytes()), ContainsSubstring(row.sentence));
    }
    CHECK(test::layerError(test::safetensors("{}")) ==
          "x.safetensors: is no layer file: its __metadata__ has no vkmoe.moe");
}

TEST_CASE("a stack's layers are numbered without holes", "[formats][layer_file]") {
    TestLayer stack = stackOf(TestLayer::silu("layers.1."), TestLayer::silu("layers.0."));
    stack.description = R"({"top_k":2,"layers.1":{"top_k":1}})";
    const ModelSource model = mustRead(stack);
    CHECK(model.stack);
    REQUIRE(model.layers.size() == 2);
    CHECK(model.layers[0].description.top_k == 2);
    CHECK(model.layers[1].description.top_k == 1);
    CHECK(model.layers[1].find("experts.2.up.weight")->label == "layers.1.experts.up.weight[2]");
    CHECK(model.layers[0].find("experts.2.up.weight")->offset > model.layers[1].find("experts.2.up.weight")->offset);
    CHECK(mustRead(TestLayer::silu("layers.0.")).stack);
    TestLayer repeats = TestLayer::silu();
    repeats.description = R"({"top_k":1,"biases":true,"router_bias":true,"shared_dim":5,"shared":"sigmoid_gated"})";
    CHECK(mustRead(repeats).layers[0].description.shared_dim == 5);

    const auto error = [](const TestLayer& layer) { return test::layerError(layer.bytes()); };
    CHECK_THAT(error(TestLayer::silu("layers.1.")), ContainsSubstring("tensor layers.0.router.weight is missing"));
    CHECK_THAT(error(stackOf(TestLayer::silu("layers.0."), TestLayer::silu("layers.2."))),
               ContainsSubstring("tensor layers.1.router.weight is missing"));
    CHECK_THAT(error(stackOf(TestLayer::silu("layers.0."), TestLayer::silu())),
               ContainsSubstring("tensor router.weight belongs to no layer, but others to one"));
    CHECK_THAT(error(TestLayer::silu("layers.1024.")),
               ContainsSubstring("belongs to layer 1024, the last can be 1023"));
    TestLayer wide = stackOf(TestLayer::silu("layers.0."), TestLayer::mxfp4("layers.1."));
    wide.description = R"({"top_k":1})";
    CHECK_THAT(error(wide), ContainsSubstring("layers.1 has model_dim 32, layers.0 has 4; a stack has one"));
    stack["layers.1.router.bias"].shape = {5};
    CHECK_THAT(error(stack), ContainsSubstring("tensor layers.1.router.bias has shape [5], must have [3]"));
    stack = TestLayer::silu("layers.0.");
    stack.description = R"({"top_k":2,"layers.1":{"top_k":1}})";
    CHECK_THAT(error(stack), ContainsSubstring("a description of layers.1, but there are no tensors of it"));
    stack.description = R"({"layers.0":{"top_k":7}})";
    CHECK_THAT(error(stack), ContainsSubstring("layers.0: top_k is 7, must be 1 to 3"));
}

TEST_CASE("a stack's layers may be described in the metadata, each by itself", "[formats][layer_file]") {
    TestLayer stack = stackOf(TestLayer::silu("layers.0."), TestLayer::silu("layers.1."));
    stack.description = R"({"top_k":2,"renormalize":true})";
    stack.metadata = {{"layers.1", R"({"top_k":1})"}};
    ModelSource model = mustRead(stack);
    CHECK(model.layers[0].description.top_k == 2);
    CHECK(model.layers[1].description.top_k == 1);
    CHECK(model.layers[1].description.renormalize);
    stack.description = "";
    stack.metadata = {{"layers.0", R"({"top_k":3})"}, {"layers.1", R"({"top_k":1,"score":"sigmoid"})"}};
    model = mustRead(stack);
    CHECK(model.layers[0].description.top_k == 3);
    CHECK(model.layers[1].description.score == Score::sigmoid);

    const auto error = [&](const std::string& key, const std::string& text) {
        TestLayer wrong = stack;
        wrong.description = R"({"top_k":2})";
        wrong.metadata = {{key, text}};
        return test::layerError(wrong.bytes());
    };
    CHECK_THAT(error("layers.1", R"({"topk":1})"), ContainsSubstring("x.safetensors: layers.1: topk is an unknown"));
    CHECK_THAT(error("layers.07", "{}"), ContainsSubstring("__metadata__ has layers.07, which is unknown"));
    CHECK_THAT(error("layers.2", R"({"top_k":1})"), ContainsSubstring("a description of layers.2, but there are no"));
    CHECK_THAT(error("vkmoe.more", "{}"), ContainsSubstring("__metadata__ has vkmoe.more, which is unknown"));
    TestLayer large = stack;
    for (const char* key : {"layers.0", "layers.1"}) large.metadata[key] = std::string(3 << 20, ' ');
    CHECK_THAT(test::layerError(large.bytes()), ContainsSubstring("under keys that start with vkmoe. or layers."));
}

TEST_CASE("a layer file reads back as it was written", "[formats][layer_file]") {
    test::Folder folder;
    TestLayer stack = stackOf(TestLayer::silu("layers.0."), TestLayer::silu("layers.1."));
    stack.description = R"({"top_k":2,"renormalize":true,"routed_scale":2.5,"layers.1":{"top_k":1}})";
    for (const TestLayer& layer : {TestLayer::silu(), TestLayer::relu("BF16"), TestLayer::mxfp4(), stack}) {
        const ModelSource model = mustRead(layer);
        const std::string path = folder / "out.safetensors", again = folder / "again.safetensors";
        REQUIRE(writeLayerFile(path, model.layers, model.stack));
        const auto written = openModel(path);
        REQUIRE(written);
        checkSame(model, written.value());
        REQUIRE(writeLayerFile(again, written.value().layers, model.stack));
        CHECK((test::get(path) == test::get(again)));
    }
}

TEST_CASE("rows in steps and nibbles in halves are written in order", "[formats][layer_file]") {
    // gate and up fused: gate's rows are the even ones, up's the odd ones.
    Bytes bytes(2 * 2 * 16 + 4);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i);
    const auto source = memorySource("x", bytes);
    TensorRange up{.name = "up", .format = WeightFormat::mxfp4, .shape = {2, 32}, .offset = 16, .bytes = 48};
    up.scales_offset = 65;
    up.scales_bytes = 3;
    up.row_step = 2;
    up.nibbles = Nibbles::halves;
    Bytes codes, scales;
    const auto into = [](Bytes& out) {
        return [&out](std::span<const std::byte> piece) -> Result<void> {
            out.insert(out.end(), piece.begin(), piece.end());
            return {};
        };
    };
    REQUIRE(copyTensor(*source, up, into(codes)));
    REQUIRE(copyScales(*source, up, into(scales)));
    REQUIRE(codes.size() == 32);
    CHECK((scales == Bytes{std::byte(65), std::byte(67)}));
    for (size_t row = 0; row < 2; ++row)
        for (size_t element = 0; element < 32; ++element) {
            const std::byte from = bytes[16 + 32 * row + element % 16];
            const std::byte want = element < 16 ? from & std::byte(15) : from >> 4;
            const std::byte to = codes[16 * row + element / 2];
            REQUIRE((element % 2 == 0 ? to & std::byte(15) : to >> 4) == want);
        }
}
