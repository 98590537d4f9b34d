// The program's commands that train a layer: fit, and backward.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <csignal>
#include <filesystem>

#include "tests/program/training_run.h"

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

TEST_CASE("fit trains a layer, and writes it once", "[program]") {
    Folder folder;
    REQUIRE(program("init --model-dim 4 --hidden-dim 6 --experts 3 --top-k 2 -o " + (folder / "a.moe0")).code == 0);
    std::vector<float> x, y;
    for (int i = 0; i < 40; ++i) x.push_back(float(i * 37 % 40) / 20 - 1), y.push_back(x.back() / 2);
    writeFloats(folder / "x.f32", x);
    writeFloats(folder / "y.f32", y);
    const std::string job = "fit " + (folder / "a.moe0") + " --device cpu --json --inputs " + (folder / "x.f32") +
                            " --targets " + (folder / "y.f32") + " --batch-size 4 --lr 0.03 --epochs 8 -o ";
    const auto ended = program(job + (folder / "b.moe0"));
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    const auto told = jsonLines(ended.out);
    REQUIRE(told.size() == 8);
    CHECK(told[0]["epoch"] == 0);
    CHECK(told[7]["loss"] < told[0]["loss"]);
    CHECK(told[7]["aux_loss"] >= 0.9);
    REQUIRE(program(job + (folder / "b.safetensors")).code == 0);
    REQUIRE(program("convert " + (folder / "b.safetensors") + " -o " + (folder / "c.moe0")).code == 0);
    CHECK((slurp(folder / "c.moe0") == slurp(folder / "b.moe0")));

    const auto paged = program(job + (folder / "p.moe0") + " --precision exact --vram-budget 4KiB --host-budget 0");
    INFO(paged.err);
    REQUIRE(paged.code == 0);
    CHECK(jsonLines(paged.out)[7]["pages"]["bytes_written"] > 0);
    REQUIRE(program(job + (folder / "t.moe0") + " --trace " + (folder / "t.json")).code == 0);
    CHECK((slurp(folder / "t.moe0") == slurp(folder / "b.moe0")));
    CHECK(program("replay " + (folder / "t.json")).code == 0);
    CHECK((slurp(folder / "p.moe0") == slurp(folder / "b.moe0")));
    const auto small = program(job + (folder / "q.moe0") + " --vram-budget 1KiB --host-budget 0");
    CHECK(small.code != 0);
    checkSentence(small, "an expert in training needs 4");

    CHECK(program(job + (folder / "b.bin")).code == 2);
    writeFloats(folder / "y.f32", {1, 2, 3, 4});
    checkRefused(job + (folder / "d.moe0"), "x.f32 has 10 samples, ");
    CHECK(!fs::exists(folder / "d.moe0"));
}

TEST_CASE("an interrupted fit writes the layer as it is after its step", "[program]") {
    Folder folder;
    REQUIRE(program("init --model-dim 4 --hidden-dim 6 --experts 3 --top-k 2 -o " + (folder / "a.moe0")).code == 0);
    writeFloats(folder / "x.f32", {1, -2, 3, 4, 0.5f, 0.25f, -1, 2});
    writeFloats(folder / "y.f32", {0, 1, 0, -1, 0.5f, 1, -1, 0});
    const auto job = [&](const std::string& output, uint64_t epochs) {
        return "fit " + (folder / "a.moe0") + " --device cpu --json --inputs " + (folder / "x.f32") + " --targets " +
               (folder / "y.f32") + " --epochs " + std::to_string(epochs) + " -o " + (folder / output);
    };
    Running running(job("b.moe0", 100000000) + " --trace " + (folder / "t.json"));
    REQUIRE(running.printed("\"epoch\":3,"));
    running.send(SIGINT);
    const auto ended = running.wait();
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    const std::string after = "interrupted after ";
    REQUIRE(ended.err.find(after) != std::string::npos);
    const uint64_t samples = std::stoull(ended.err.substr(ended.err.find(after) + after.size()));
    CHECK((samples >= 8 && samples % 2 == 0));  // an epoch is one step of two samples
    REQUIRE(program(job("c.moe0", samples / 2)).code == 0);
    CHECK((slurp(folder / "b.moe0") == slurp(folder / "c.moe0")));
    CHECK(program("replay " + (folder / "t.json")).code == 0);
}

TEST_CASE("backward writes the gradients under the names of a layer file", "[program]") {
    Folder folder;
    REQUIRE(program("init --model-dim 4 --hidden-dim 6 --experts 3 --top-k 2 -o " + (folder / "a.moe0")).code == 0);
    writeFloats(folder / "x.f32", {1, -2, 3, 4, 0.5f, 0.25f, -1, 2});
    writeFloats(folder / "g.f32", {1, 0, 0, 0, 0, 0, 0, 0});
    const std::string job = "backward " + (folder / "a.moe0") + " --device cpu --input " + (folder / "x.f32") +
                            " --grad-output " + (folder / "g.f32") + " -o " + (folder / "grads.safetensors");
    const auto ended = program(job);
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    const std::string file = slurp(folder / "grads.safetensors");
    const json header = json::parse(file.substr(8, *reinterpret_cast<const uint64_t*>(file.data())));
    CHECK(header["experts.up.weight"]["shape"] == json{3, 6, 4});
    CHECK(header["experts.down.bias"]["shape"] == json{3, 4});
    CHECK(header["router.weight"]["shape"] == json{3, 4});
    CHECK(header["shared.down.weight"]["dtype"] == "F32");
    CHECK(header["input"]["shape"] == json{2, 4});
    // The shared expert's output bias receives the outputs' gradient as it is.
    const size_t at = 8 + *reinterpret_cast<const uint64_t*>(file.data()) +
                      header["shared.down.bias"]["data_offsets"][0].get<size_t>();
    const auto* bias = reinterpret_cast<const float*>(file.data() + at);
    CHECK((bias[0] == 1 && bias[1] == 0));
    writeFloats(folder / "g.f32", {1, 0, 0, 0, 0, 0, NAN, 0});
    checkRefused(job, "g.f32: token 1, element 2 is not finite");
    writeFloats(folder / "g.f32", {1, 0, 0, 0});
    checkRefused(job, "has 2 tokens, ");
}
