// vkmoe convert and vkmoe inspect, over every format.
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/build.h"
#include "tests/formats/layer_builder.h"
#include "tests/program/program.h"
#include "tests/program/training_run.h"

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

namespace {

// The same layer with all values zero.
Bytes zeroed(const TestLayer& layer) {
    Bytes bytes = layer.bytes();
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    std::fill(bytes.begin() + ptrdiff_t(8 + length), bytes.end(), std::byte{0});
    return bytes;
}

TestLayer stack() {
    TestLayer both = TestLayer::silu("layers.0.");
    both.append(TestLayer::silu("layers.1."));
    return both;
}

}  // namespace

TEST_CASE("convert goes from MoE0 to a layer file and back, to the byte", "[program][formats]") {
    Folder folder;
    for (const char* more : {"", " --fp16"}) {
        REQUIRE(program("init --model-dim 20 --hidden-dim 24 --experts 5 --top-k 3 -o " + (folder / "a.moe0") + more)
                    .code == 0);
        const auto there = program("convert " + (folder / "a.moe0") + " -o " + (folder / "a.safetensors") + " --json");
        INFO(there.err);
        REQUIRE(there.code == 0);
        CHECK(json::parse(there.out)["kind"] == "layer file");
        CHECK(json::parse(there.out)["bytes"] == fs::file_size(folder / "a.safetensors"));
        REQUIRE(program("convert " + (folder / "a.safetensors") + " --format moe0 -o " + (folder / "back")).code == 0);
        CHECK((slurp(folder / "back") == slurp(folder / "a.moe0")));
        REQUIRE(program("convert " + (folder / "back") + " --format layer -o " + (folder / "there")).code == 0);
        CHECK((slurp(folder / "there") == slurp(folder / "a.safetensors")));
    }
}

TEST_CASE("convert never writes over what it reads", "[program][formats]") {
    Folder folder;
    REQUIRE(program("init --model-dim 4 --hidden-dim 6 -o " + (folder / "a.moe0")).code == 0);
    const auto before = slurp(folder / "a.moe0");
    const auto ended = program("convert " + (folder / "a.moe0") + " --format layer -o " + (folder / "a.moe0"));
    CHECK(ended.code == 3);
    CHECK_THAT(ended.err, Catch::Matchers::ContainsSubstring("cannot be the same file"));
    CHECK((slurp(folder / "a.moe0") == before));
    REQUIRE(program("convert " + (folder / "a.moe0") + " -o " + (folder / "model.safetensors")).code == 0);
    const auto shard = slurp(folder / "model.safetensors");
    CHECK(program("convert " + folder.path() + " -o " + (folder / "model.safetensors")).code == 3);
    CHECK((slurp(folder / "model.safetensors") == shard));
}

TEST_CASE("init writes the layer as its file's name says, and none that nothing can read", "[program][formats]") {
    Folder folder;
    const std::string of = "init --model-dim 4 --hidden-dim 6 --experts 3 -o ";
    REQUIRE(program(of + (folder / "a.safetensors")).code == 0);
    REQUIRE(program(of + (folder / "a.moe0")).code == 0);
    REQUIRE(program("convert " + (folder / "a.moe0") + " -o " + (folder / "b.safetensors")).code == 0);
    CHECK((slurp(folder / "a.safetensors") == slurp(folder / "b.safetensors")));
    const auto many = program("init --model-dim 2 --hidden-dim 2 --experts 1025 -o " + (folder / "many.moe0"));
    CHECK(many.code == 3);
    CHECK_THAT(many.err, Catch::Matchers::ContainsSubstring("experts is 1025, must be 1 to 1024"));
    CHECK_FALSE(fs::exists(folder / "many.moe0"));
}

TEST_CASE("convert refuses with 3 and one sentence, and writes nothing", "[program][formats]") {
    Folder folder;
    put(folder / "silu.safetensors", zeroed(TestLayer::silu()));
    put(folder / "stack.safetensors", zeroed(stack()));
    put(folder / "nan.safetensors", TestLayer::silu().bytes());
    put(folder / "cut.safetensors", Bytes(7));
    const auto refused = [&](const std::string& file, const std::string& sentence) {
        const auto ended = program("convert " + (folder / file) + " -o " + (folder / "out.moe0"));
        CHECK(ended.code == 3);
        CHECK(ended.out.empty());
        checkSentence(ended, sentence);
        CHECK(!fs::exists(folder / "out.moe0"));
    };
    refused("silu.safetensors", "silu.safetensors: score is softmax, in MoE0 it is softmax_selected");
    refused("stack.safetensors", "stack.safetensors: is a stack of 2 layers, MoE0 holds one");
    refused("nan.safetensors", "values that are not finite or not below 2^63 in size");
    refused("cut.safetensors", "cut.safetensors: the header length has 8 bytes at offset 0, but the length is 7");
    refused("missing.safetensors", "missing.safetensors: cannot be opened");
    CHECK(program("convert " + (folder / "silu.safetensors") + " -o " + (folder / "no/out.safetensors")).code == 3);

    const auto nameless = program("convert " + (folder / "silu.safetensors") + " -o " + (folder / "out"));
    CHECK(nameless.code == 2);
    checkSentence(nameless, "out: ends in none of .moe0, .safetensors");
    CHECK(program("convert " + (folder / "silu.safetensors") + " --format gguf -o " + (folder / "out")).code == 2);
    CHECK(program("convert " + (folder / "silu.safetensors")).code == 2);
    CHECK(!fs::exists(folder / "out"));
}

TEST_CASE("inspect tells layer files, stacks and shards", "[program][formats]") {
    Folder folder;
    put(folder / "model.safetensors", zeroed(TestLayer::mxfp4()));
    for (const std::string& path : {folder / "model.safetensors", folder.path()}) {
        const auto seen = program("inspect --json " + path);
        INFO(seen.err);
        REQUIRE(seen.code == 0);
        const json told = json::parse(seen.out);
        CHECK(told["kind"] == "layer file");
        CHECK(told["description"]["activation"] == "clamped_swiglu");
        REQUIRE(told["tensors"].size() == 7);
        CHECK(told["tensors"][2]["name"] == "experts.up.blocks");
        CHECK(told["tensors"][2]["format"] == "mxfp4");
        CHECK(told["tensors"][2]["shape"] == json{2, 64, 32});
        CHECK(told["tensors"][2]["bytes"] == 2048);
        CHECK(told["tensors"][2]["scales_bytes"] == 128);
        CHECK(program("inspect " + path).code == 0);
    }
    put(folder / "stack.safetensors", zeroed(stack()));
    const json told = json::parse(program("inspect --json " + (folder / "stack.safetensors")).out);
    REQUIRE(told["layers"].size() == 2);
    CHECK(told["layers"][1]["description"]["shared"] == "sigmoid_gated");
    CHECK(told["layers"][1]["tensors"][3]["name"] == "layers.1.experts.gate.weight");
    CHECK(program("inspect " + (folder / "stack.safetensors")).out.find("a stack of 2") != std::string::npos);
}

TEST_CASE("inspect refuses what is damaged with 3 and one sentence", "[program][formats]") {
    Folder folder;
    put(folder / "nan.safetensors", TestLayer::silu().bytes());
    TestLayer odd = TestLayer::silu();
    odd["router.bias"].shape = {4};
    put(folder / "odd.safetensors", odd.bytes());
    put(folder / "index.json", text(R"({"weight_map":{"a":"../x.safetensors"}})"));
    for (const auto& [file, sentence] :
         {std::pair("nan.safetensors", "not finite or not below 2^63"),
          std::pair("odd.safetensors", "tensor router.bias has shape [4], must have [3]"),
          std::pair("index.json", "must be the plain name of a .safetensors file")}) {
        const auto ended = program("inspect " + (folder / file));
        CHECK(ended.code == 3);
        CHECK(ended.out.empty());
        checkSentence(ended, std::string(file) + ": ");
        checkSentence(ended, sentence);
    }
}

// Limits: a second, and 64 MiB more than the file.
TEST_CASE("files made to be slow or large are refused in little time and memory", "[program][formats][hostile]") {
    if (test::kSanitized) SKIP("the sanitizers need more of both");
    Folder folder;
    const auto repeated = [](const std::string& part, size_t times) {
        std::string whole;
        while (times-- > 0) whole += part;
        return whole;
    };
    const std::string described = R"({"__metadata__":{"vkmoe.moe":"{\"top_k\":1}"})";
    std::string tensors = described;
    for (int i = 0; i < 1'000'000; ++i)
        tensors += ",\"" + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    std::string index = R"({"weight_map":{"a":"a.safetensors")";
    for (int i = 0; i < 1'000'000; ++i) index += ",\"" + std::to_string(i) + "\":\"a.safetensors\"";
    const std::pair<const char*, Bytes> files[] = {
        {"tensors.safetensors", safetensors(tensors + "}")},
        {"name.safetensors", safetensors(described + ",\"" + std::string(1'000'000, 'n') + "\":{}}")},
        {"depth.safetensors", safetensors("{\"a\":" + std::string(90'000'000, '['))},
        {"objects.safetensors", safetensors(repeated("{\"a\":", 15'000'000))},
        {"string.safetensors", safetensors("{\"" + std::string(99'000'000, 's'))},
        {"digits.safetensors", safetensors("{\"a\":" + std::string(99'000'000, '7'))},
        {"spaces.safetensors", safetensors(described + "}" + std::string(99'000'000, ' '))},
        {"a.safetensors", safetensors("{\"a\":{\"shape\":[" + repeated("1,", 49'000'000))},
        {"index.json", text(index + "}}")},
        {"large.index.json", text(R"({"metadata":[)" + repeated("4.9e-324,", 4'000'000))},
    };
    for (const auto& [name, bytes] : files) {
        put(folder / name, bytes);
        CAPTURE(name);
        Measured used;
        const auto ended = measuredProgram("inspect " + (folder / name), used);
        CHECK(ended.code == 3);
        checkSentence(ended, name == std::string("index.json") ? "a.safetensors: " : name);
        CHECK(used.seconds < 1);
        CHECK(used.largest_kib * 1024 < bytes.size() + (uint64_t{64} << 20));
    }
}

// One column: its panels are sixteen times as large as the file.
TEST_CASE("values that are no numbers are found before memory is taken for them", "[program][formats][hostile]") {
    if (test::kSanitized) SKIP("the sanitizers need more of it");
    Folder folder;
    const Bytes bytes = safetensors({{"router.weight", "F16", {1024, 1}},
                                     {"experts.up.weight", "F16", {1024, 8192, 1}},
                                     {"experts.down.weight", "F16", {1024, 1, 8192}}},
                                    R"({"top_k":1,"activation":"relu"})");
    put(folder / "wide.safetensors", bytes);
    writeFloats(folder / "x.f32", {1});
    const std::string run = "run " + (folder / "wide.safetensors") + " --device cpu --input " + (folder / "x.f32") +
                            " --output " + (folder / "y.f32");
    for (const char* more : {"", " --vram-budget 1MiB --host-budget 1MiB"}) {
        Measured used;
        const auto ended = measuredProgram(run + more, used);
        CHECK(ended.code == 3);
        checkSentence(ended, "values that are not finite or not below 2^63 in size, the first at row");
        CHECK(used.seconds < 1);
        CHECK(used.largest_kib * 1024 < bytes.size() + (uint64_t{64} << 20));
        CHECK(!std::filesystem::exists(folder / "y.f32"));
    }
}

TEST_CASE("convert takes a language model from a package to EVL0 and back, and to what differs", "[program][formats]") {
    Folder folder;
    writeText(folder / "text", poem());
    REQUIRE(program(trainCommand(folder, "one.evermind", "--steps 1")).code == 0);
    REQUIRE(program(trainCommand(folder, "two.evermind", "--steps 2")).code == 0);
    const auto converted = [&](const std::string& from, const std::string& to, const std::string& more = "") {
        const auto ended = program("convert " + (folder / from) + " -o " + (folder / to) + more);
        INFO(ended.err);
        CHECK(ended.code == 0);
        return slurp(folder / to);
    };
    const std::string one = converted("one.evermind", "one.evl0"), two = converted("two.evermind", "two.evl0");
    CHECK((one != two));
    CHECK(converted("one.evl0", "back.evermind").size() < slurp(folder / "one.evermind").size());  // the card
    CHECK((converted("back.evermind", "back.evl0") == one));
    CHECK(converted("one.evl0", "half.evl0", " --fp16").size() < one.size() * 2 / 3);
    const std::string delta = converted("two.evermind", "d.evd0", " --base " + (folder / "one.evl0"));
    CHECK(delta.size() < two.size() * 5 / 4);  // AdamW moves every row
    CHECK((converted("d.evd0", "new.evl0", " --base " + (folder / "one.evermind")) == two));
    const auto written = [&](const std::string& model) {
        return program("generate " + (folder / model) + " --device cpu --prompt a --max-tokens 5").out;
    };
    CHECK(written("back.evermind") == written("one.evermind"));
}

TEST_CASE("what cannot be converted is refused, and nothing is written", "[program][formats][hostile]") {
    Folder folder;
    writeText(folder / "text", poem());
    REQUIRE(program(trainCommand(folder, "m.evermind", "--steps 1")).code == 0);
    REQUIRE(program("convert " + (folder / "m.evermind") + " -o " + (folder / "m.evl0")).code == 0);
    REQUIRE(program("convert " + (folder / "m.evl0") + " -o " + (folder / "same.evd0") + " --base " +
                    (folder / "m.evermind"))
                .code == 0);
    const std::string wide = " --model-dim 32 --layers 1 --hidden-dim 8 --experts 2 --top-k 1 --context 8 --batch 1 ";
    REQUIRE(program(trainCommand(folder, "wide.evermind", "--steps 1", wide)).code == 0);
    REQUIRE(program("init --model-dim 4 --hidden-dim 6 -o " + (folder / "a.moe0")).code == 0);
    const auto refused = [&](const std::string& arguments, const std::string& sentence) {
        checkRefused("convert " + arguments + " -o " + (folder / "out.evl0") + " --format evl0", sentence);
        CHECK(!fs::exists(folder / "out.evl0"));
    };
    refused(folder / "same.evd0", "--base must name");
    refused((folder / "same.evd0") + " --base " + (folder / "wide.evermind"), "and the model of --base of 1");
    refused(folder / "a.moe0", "is neither a package (.evermind) nor an EVL0 file");
    refused(folder / "none", "none: cannot be opened");
    checkRefused("convert " + (folder / "m.evl0") + " -o " + (folder / "d.evd0"), "--base must name");
    checkRefused(
        "convert " + (folder / "m.evl0") + " -o " + (folder / "d.evd0") + " --base " + (folder / "wide.evermind"),
        "has another shape than");
    checkRefused("convert " + (folder / "m.evermind") + " -o " + (folder / "n.evermind"), "is a package already");
    checkRefused("convert " + (folder / "m.evl0") + " -o " + (folder / "m.evl0"), "cannot be the same file");
    CHECK(program("convert " + (folder / "m.evl0") + " -o " + (folder / "n.evermind") + " --fp16").code == 2);
    CHECK(program("convert " + (folder / "a.moe0") + " -o " + (folder / "n.safetensors") + " --base x").code == 2);
    for (const char* name : {"d.evd0", "n.evermind", "n.safetensors"}) CHECK(!fs::exists(folder / name));
}
