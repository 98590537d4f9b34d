// What the paging experiment is made with: stacks, routes, and the replay of traces.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/formats/residency_trace.h"
#include "host/zipf_visits.h"
#include "tests/program/program.h"

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

namespace {

double rms(const std::vector<float>& values) {
    double sum = 0;
    for (float value : values) sum += double(value) * value;
    return std::sqrt(sum / double(values.size()));
}

}  // namespace

TEST_CASE("init writes stacks, and routes what run can be forced to", "[program]") {
    Folder folder;
    std::string stack = folder / "s.safetensors", routes = folder / "r.json", x = folder / "x.f32",
                y = folder / "y.f32";
    for (const char* format : {"f16", "bf16", "f32"}) {
        CAPTURE(format);
        auto made =
            program("init --layers 24 --experts 6 --top-k 2 --model-dim 32 --hidden-dim 40 --seed 3 --json -o " +
                    stack + " --format " + format);
        INFO(made.err);
        REQUIRE(made.code == 0);
        CHECK(json::parse(made.out)["parameters"] == 24 * 6 * (32 + 3 * 32 * 40));
        CHECK(json::parse(made.out)["bytes"] == fs::file_size(stack));
        auto seen = program("inspect --json " + stack);
        INFO(seen.err);
        REQUIRE(seen.code == 0);

        REQUIRE(program("routes --layers 24 --experts 6 --top-k 2 --tokens 17 --input " + x + " --model-dim 32 -o " +
                        routes)
                    .code == 0);
        auto ran = program("run " + stack + " --device cpu --input " + x + " --output " + y + " --routes-in " + routes +
                           " --routes " + (folder / "used.json"));
        INFO(ran.err);
        REQUIRE(ran.code == 0);
        std::vector<float> in = readFloats(x), out = readFloats(y);
        REQUIRE(out.size() == 17 * 32);
        CHECK(out != in);
        CHECK(rms(out) > 0.5 * rms(in));
        CHECK(rms(out) < 2 * rms(in));
        json asked = json::parse(slurp(routes)), used = json::parse(slurp(folder / "used.json"));
        REQUIRE(used["layers"].size() == 24);
        for (size_t layer = 0; layer < 24; ++layer)
            CHECK(asked["layers"][layer]["experts"] == used["layers"][layer]["experts"]);
        CHECK(asked["layers"][0]["gates"][0] == json({0.5, 0.5}));
    }
}

TEST_CASE("a seed says what a stack and routes are", "[program]") {
    Folder folder;
    auto make = [&](const std::string& name, int seed) {
        std::string with = " --seed " + std::to_string(seed) + " -o " + (folder / name);
        REQUIRE(program("init --layers 2 --model-dim 5 --hidden-dim 7 --experts 3 --top-k 1" + with + ".safetensors")
                    .code == 0);
        REQUIRE(program("routes --layers 2 --experts 9 --top-k 3 --tokens 8" + with + ".json").code == 0);
    };
    make("a", 1);
    make("b", 1);
    make("c", 2);
    for (const char* end : {".safetensors", ".json"}) {
        CHECK(slurp(folder / ("a" + std::string(end))) == slurp(folder / ("b" + std::string(end))));
        CHECK(slurp(folder / ("a" + std::string(end))) != slurp(folder / ("c" + std::string(end))));
    }
}

TEST_CASE("replay compares every policy with Belady", "[program]") {
    Folder folder;
    vkmoe::Trace trace{.pages = std::vector<uint32_t>(6, 20),
                       .page_bytes = std::vector<uint64_t>(6, 1000),
                       .costs = {1e6, 0, 0.5},
                       .visits = vkmoe::zipfVisits({.layers = 6, .experts = 20, .top_k = 3, .tokens = 80})};
    REQUIRE(vkmoe::formats::writeTrace(folder / "t.json", trace));
    auto ended =
        program("replay --json --budgets 10,25%,60kB --html " + (folder / "t.html") + " " + (folder / "t.json"));
    CHECK(ended.code == 3);
    checkSentence(ended, "budget \"60kB\" is neither a percentage nor a size such as 192MiB");
    CHECK(!fs::exists(folder / "t.html"));

    ended =
        program("replay --json --budgets 10,25%,60000,1GiB --html " + (folder / "t.html") + " " + (folder / "t.json"));
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    json table = json::parse(ended.out);
    CHECK(table["visits"] == 480);
    REQUIRE(table["budgets"].size() == 4);
    const int slots[] = {12, 30, 60, 120};
    for (size_t i = 0; i < 4; ++i) {
        const json& budget = table["budgets"][i];
        CHECK(budget["slots"] == slots[i]);
        REQUIRE(budget["policies"].size() == 5);
        for (const json& policy : budget["policies"]) {
            INFO(policy.dump());
            uint64_t misses = policy["misses"];
            CHECK(policy["hits"] == 6 * 80 * 3 - misses);
            CHECK(policy["bytes"] == misses * 1000);
            CHECK(std::fabs(double(policy["predicted_seconds"]) - (240 + double(misses) * 1e-3)) < 1e-6);
            CHECK(policy["ratio_to_belady"] >= 1.0);
            if (i == 3) CHECK(policy["misses"] == budget["belady"]["misses"]);
        }
    }
    CHECK(slurp(folder / "t.html").find("Belady, apart") != std::string::npos);
    auto text = program("replay " + (folder / "t.json"));
    CHECK(text.code == 0);
    CHECK(text.out.find("expected") != std::string::npos);
}

TEST_CASE("what the tools are asked for must make sense", "[program]") {
    Folder folder;
    std::string out = folder / "o.safetensors";
    checkSentence(program("init --layers 2 -o " + (folder / "a.moe0")), "a stack of layers is a .safetensors file");
    checkSentence(program("init --layers 2 --experts 4 --top-k 5 -o " + out), "top_k");
    checkSentence(program("init --layers 1024 --experts 1000 -o " + out), "have more than 200000 matrices");
    checkSentence(program("init --layers 9 --model-dim 4000000000 --hidden-dim 4000000000 -o " + out), "o.safetensors");
    CHECK(program("init --layers 0 -o " + out).code == 2);
    CHECK(program("init --layers 2 --fp16 -o " + out).code == 2);
    CHECK(program("init --format f16 -o " + out).code == 2);
    checkSentence(program("routes --experts 3 --top-k 4 -o " + out), "top-k is 4, must be at most the 3 experts");
    checkSentence(program("routes --input " + (folder / "x.f32") + " -o " + out), "both --input");
    checkSentence(program("routes --layers 1024 --tokens 16000000 -o " + out), "more than 268435456 routes");
    CHECK(program("routes --repeat 1.5 -o " + out).code == 2);
    CHECK(program("routes --layers 0 -o " + out).code == 2);
    CHECK(!fs::exists(out));
    std::ofstream(folder / "bad.json") << "{\"format\":\"other\"}";
    checkSentence(program("replay " + (folder / "bad.json")), "bad.json: format is \"other\", must be \"vkmoe-trace\"");
    checkSentence(program("replay " + (folder / "none.json")), "none.json");
    std::ofstream(folder / "good.json")
        << R"({"format":"vkmoe-trace","version":1,"pages":[3],"page_bytes":[256],"visits":[[0,[1]]]})";
    CHECK(program("replay " + (folder / "good.json")).code == 0);
    for (const char* budget : {"0", "-5", "101%", "nan", "inf", "5%%", "x", "1e400", "\"\""})
        CHECK(program("replay --budgets " + std::string(budget) + " " + (folder / "good.json")).code == 3);
}

TEST_CASE("experts are pinned as layer:expert", "[program]") {
    Folder folder;
    const std::string stack = folder / "s.safetensors";
    REQUIRE(program("init --layers 2 --experts 4 --top-k 2 --model-dim 32 --hidden-dim 32 -o " + stack).code == 0);
    writeFloats(folder / "x.f32", std::vector<float>(64, 0.5f));
    const auto run = [&](const std::string& options) {
        return program("run --device cpu " + options + " " + stack + " --input " + (folder / "x.f32") + " --output " +
                       (folder / "y.f32"));
    };
    REQUIRE(run("").code == 0);
    const std::string expected = slurp(folder / "y.f32");
    const auto pinned = run("--policy static --vram-budget 20KiB --host-budget 20KiB --pin 0:3,1:1");
    INFO(pinned.err);
    CHECK(pinned.code == 0);
    CHECK((slurp(folder / "y.f32") == expected));
    const auto refused = [&](const std::string& options, const std::string& sentence) {
        const auto ended = run(options);
        CHECK(ended.code == 3);
        checkSentence(ended, sentence);
    };
    refused("--policy lfu --pin 0:3", "experts are pinned, but the policy is lfu: static pins experts");
    refused("--policy static --pin 2:0", "expert 0 of layer 2 is pinned, but there are 2 layers");
    CHECK(run("--policy static --pin 3").code == 2);
}
