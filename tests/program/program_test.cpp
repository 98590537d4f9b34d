// The vkmoe program as its users meet it: what it prints, what it writes, how it ends.
#include "tests/program/program.h"

#include <sys/wait.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/build.h"
#include "tests/golden/golden.h"
#include "tests/moe/random_layer.h"

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

TEST_CASE("init, inspect and run work together", "[program]") {
    Folder folder;
    auto made = program("init --model-dim 20 --hidden-dim 24 --experts 5 --top-k 3 --seed 9 -o " + (folder / "a.moe0") +
                        " --json");
    REQUIRE(made.code == 0);
    CHECK(json::parse(made.out)["parameters"] == 5 * 20 + 6 * (2 * 24 * 20 + 24 + 20));

    auto seen = program("inspect --json " + (folder / "a.moe0"));
    REQUIRE(seen.code == 0);
    CHECK(json::parse(seen.out)["description"]["top_k"] == 3);
    CHECK(json::parse(seen.out)["tensors"].size() == 25);

    writeFloats(folder / "x.f32", randomTokens(11, 20, 1));
    auto ran = program("run " + (folder / "a.moe0") + " --device cpu --json --input " + (folder / "x.f32") +
                       " --output " + (folder / "y.f32") + " --routes " + (folder / "r.json"));
    INFO(ran.err);
    REQUIRE(ran.code == 0);
    json summary = json::parse(ran.out);
    CHECK(summary["tokens"] == 11);
    CHECK(summary["submits"] == 1);
    CHECK(summary["introspection"]["experts"].size() == 5);
    json routes = json::parse(slurp(folder / "r.json"));
    CHECK(routes["top_k"] == 3);
    CHECK(routes["experts"].size() == 11);
    CHECK(readFloats(folder / "y.f32").size() == 11 * 20);

    auto forced = program("run " + (folder / "a.moe0") + " --device cpu --input " + (folder / "x.f32") + " --output " +
                          (folder / "z.f32") + " --routes-in " + (folder / "r.json"));
    REQUIRE(forced.code == 0);
    CHECK(slurp(folder / "y.f32") == slurp(folder / "z.f32"));
}

TEST_CASE("run gives the reference engine's outputs", "[program]") {
    Folder folder;
    vkmoe::tests::Golden golden("moe/default");
    REQUIRE(program("init -o " + (folder / "a.moe0")).code == 0);
    writeFloats(folder / "x.f32", golden.f32("input"));
    auto ran =
        program("run " + (folder / "a.moe0") + " --input " + (folder / "x.f32") + " --output " + (folder / "y.f32"));
    REQUIRE(ran.code == 0);
    auto got = readFloats(folder / "y.f32"), want = golden.f32("output");
    REQUIRE(got.size() == want.size());
    double largest = 0, worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        largest = std::max(largest, std::fabs(double(want[i])));
        worst = std::max(worst, std::fabs(double(got[i]) - double(want[i])));
    }
    CHECK(worst <= 2e-6 * largest);
}

TEST_CASE("verify compares the kernels and a file's layer", "[program]") {
    Folder folder;
    REQUIRE(
        program("init --model-dim 40 --hidden-dim 24 --experts 6 --top-k 2 --fp16 -o " + (folder / "a.moe0")).code ==
        0);
    auto verified = program("verify --device cpu --json " + (folder / "a.moe0"));
    INFO(verified.err);
    CHECK(verified.code == 0);
    CHECK(json::parse(verified.out)["devices"][0]["differences"].empty());
    CHECK(program("verify --device cpu " + (folder / "missing.moe0")).code == 3);
    CHECK(program("verify --device gpu:99").code == 4);
}

TEST_CASE("bench times a kernel where others cannot run", "[program]") {
    auto ran = program(
        "bench --device cpu --filter add_rows --tokens 8 --experts 2 --top-k 1 --model-dim 32 --hidden-dim 32 --json");
    INFO(ran.err);
    REQUIRE(ran.code == 0);
    json rows = json::parse(ran.out)["rows"];
    REQUIRE(rows.size() == 1);
    CHECK(rows[0]["kernel"] == "add_rows");
    CHECK(rows[0]["ms"] > 0);
}

TEST_CASE("output that cannot be printed is an error", "[program]") {
    Folder folder;
    int status = std::system((std::string(test::kProgram) + " devices >/dev/full 2>" + (folder / "err")).c_str());
    CHECK(WEXITSTATUS(status) == 3);
}

TEST_CASE("bad input ends with 3, one sentence, and no output file", "[program]") {
    Folder folder;
    REQUIRE(program("init --model-dim 4 --hidden-dim 4 --experts 2 --top-k 1 -o " + (folder / "a.moe0")).code == 0);
    writeFloats(folder / "x.f32", {1, 2, 3, 4, 5, 6, 7, 8});
    auto runWith = [&](const std::string& model, const std::string& input, const std::string& more = "") {
        auto ended = program("run " + (folder / model) + " --device cpu --input " + (folder / input) + " --output " +
                             (folder / "y.f32") + " --routes " + (folder / "r.json") + " " + more);
        CHECK(ended.code == 3);
        CHECK(ended.out.empty());
        CHECK(!fs::exists(folder / "y.f32"));
        CHECK(!fs::exists(folder / "r.json"));
        return ended;
    };
    checkSentence(runWith("missing.moe0", "x.f32"), "missing.moe0");
    checkSentence(runWith("a.moe0", "missing.f32"), "missing.f32");
    writeFloats(folder / "short.f32", {1, 2, 3});
    checkSentence(runWith("a.moe0", "short.f32"), "short.f32: 12 bytes are no whole number of tokens of 16 bytes");
    writeFloats(folder / "nan.f32", {1, 2, 3, 4, 5, NAN, 7, 8});
    checkSentence(
        runWith("a.moe0", "nan.f32"),
        "nan.f32: the input: 1 values are not finite or not below 2^63 in size, the first at token 1, element 1");
    std::string model = slurp(folder / "a.moe0");
    std::ofstream(folder / "cut.moe0", std::ios::binary) << model.substr(0, model.size() - 4);
    checkSentence(runWith("cut.moe0", "x.f32"), "cut.moe0: length is");
    std::ofstream(folder / "routes.json") << R"({"top_k":1,"experts":[[0],[7]],"gates":[[1],[1]]})";
    checkSentence(runWith("a.moe0", "x.f32", "--routes-in " + (folder / "routes.json")),
                  "token 1: expert 7 is not one of 0 to 1");
    const std::pair<const char*, const char*> bad_routes[] = {
        {R"({"top_k":1,"experts":[[0]],"gates":[[1],[1]]})", "experts has 1 tokens, must have 2"},
        {R"({"top_k":1,"experts":[[0],[1],[1]],"gates":[[1],[1]]})", "experts has more than 2 tokens"},
        {R"({"top_k":1,"experts":[[0],[1,0]],"gates":[[1],[1]]})", "token 1: experts has more than 1 numbers"},
        {R"({"top_k":1,"experts":[[0],[]],"gates":[[1],[1]]})", "token 1: experts has 0 numbers, must have top_k = 1"},
        {R"({"top_k":1,"experts":[[0],[1]],"gates":[[1],[]]})", "token 1: experts has 1 numbers, gates 0"},
        {R"({"top_k":2,"experts":[[0],[1]],"gates":[[1],[1]]})", "top_k is 2, the layer's is 1"},
        {R"({"top_k":1,"experts":[[0],[1]],"gates":[[1],[1e400]]})", "token 1: gate 1e400 is not a number below 2^63"},
        {R"({"top_k":1,"experts":[[0],[{}]],"gates":[[1],[1]]})", "experts: token 1 has an object"},
        {R"({"top_k":1,"experts":[[0],[[1]]],"gates":[[1],[1]]})", "experts: token 1 has an array"},
        {R"({"top_k":1,"experts":[0,1],"gates":[[1],[1]]})", "experts is or has 0, must be a list of tokens"},
        {R"({"top_k":1,"top_k":1,"experts":[],"gates":[]})", "top_k is there twice"},
        {R"({"experts":[[0],[1]],"gates":[[1],[1]]})", "top_k is missing"},
        {R"({"layers":[]})", "layers has the routes of 0 layers, must have 1"},
        {R"({"layers":[[]]})", "layers.0: found an array"},
        {R"({"layers":[{"top_k":1,"experts":[[0],[1]],"gates":[[1],[1]]},{}]})", "layers has more routes than"},
        {R"([])", "found an array, must be an object of routes"},
        {"", "is no valid JSON at its byte"}};
    for (const auto& [text, sentence] : bad_routes) {
        std::ofstream(folder / "routes.json") << text;
        INFO(text);
        checkSentence(runWith("a.moe0", "x.f32", "--routes-in " + (folder / "routes.json")), sentence);
    }
    for (const char* read : {"a.moe0", "x.f32"}) {
        const std::string before = slurp(folder / read);
        auto over = program("run " + (folder / "a.moe0") + " --device cpu --input " + (folder / "x.f32") +
                            " --output " + (folder / read));
        CHECK(over.code == 3);
        checkSentence(over, "cannot be the same file");
        CHECK(slurp(folder / read) == before);
    }
    auto same = program("run " + (folder / "a.moe0") + " --device cpu --input " + (folder / "x.f32") + " --output " +
                        (folder / "y.f32") + " --routes " + (folder / "y.f32"));
    CHECK(same.code == 3);
    checkSentence(same, "cannot be the same file");
    auto nowhere = program("run " + (folder / "a.moe0") + " --device cpu --input " + (folder / "x.f32") + " --output " +
                           (folder / "no/y.f32"));
    CHECK(nowhere.code == 3);
    checkSentence(nowhere, "no/y.f32");
}

TEST_CASE("--compat accepts what the reference engine accepts, with a warning", "[program]") {
    Folder folder;
    REQUIRE(program("init --model-dim 4 --hidden-dim 4 --experts 2 --top-k 1 -o " + (folder / "a.moe0")).code == 0);
    std::ofstream(folder / "long.moe0", std::ios::binary) << slurp(folder / "a.moe0") << "tail";
    CHECK(program("inspect " + (folder / "long.moe0")).code == 3);
    auto accepted = program("inspect --compat " + (folder / "long.moe0"));
    CHECK(accepted.code == 0);
    checkSentence(accepted, "warning");
}

TEST_CASE("usage errors end with 2", "[program]") {
    for (const char* arguments :
         {"", "nonsense", "run", "init", "run a.moe0 --input x", "devices --precision half", "init --top-k many -o x"})
        CHECK(program(arguments).code == 2);
    CHECK(program("--help").code == 0);
    CHECK(program("run --help").code == 0);
}

TEST_CASE("no such device ends with 4; without a loader or driver the CPU serves", "[program]") {
    Folder folder;
    REQUIRE(program("init -o " + (folder / "a.moe0")).code == 0);
    writeFloats(folder / "x.f32", randomTokens(3, 64, 1));
    std::string job =
        "run " + (folder / "a.moe0") + " --input " + (folder / "x.f32") + " --output " + (folder / "y.f32");
    const std::string no_driver = "VK_DRIVER_FILES=/nonexistent VK_ICD_FILENAMES=/nonexistent";
    checkSentence(program(job + " --device gpu:99"), "");
    CHECK(program(job + " --device gpu:99").code == 4);
    CHECK(program(job + " --device gpu", no_driver).code == 4);
    CHECK(program(job + " --device nonsense").code == 2);
    CHECK(!fs::exists(folder / "y.f32"));
    CHECK(program(job, no_driver).code == 0);
    CHECK(program("devices", no_driver).code == 0);
    CHECK(program("demo --tokens 64 --report " + (folder / "r.html"), no_driver).code == 0);
}

TEST_CASE("init refuses what cannot be", "[program]") {
    Folder folder;
    for (const char* arguments : {"--top-k 9", "--top-k 0", "--experts 0", "--model-dim 0", "--hidden-dim 0",
                                  "--model-dim 4000000000 --hidden-dim 4000000000"}) {
        auto ended = program("init " + std::string(arguments) + " -o " + (folder / "a.moe0"));
        CHECK(ended.code == 3);
        checkSentence(ended, "");
    }
    CHECK(folder.empty());
}

TEST_CASE("the demo runs, compares the bits and writes a self-contained report", "[program]") {
    Folder folder;
    auto ended = program("demo --tokens 300 --json --report " + (folder / "r.html"));
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    CHECK(json::parse(ended.out)["same_bits"] == true);
    std::string html = slurp(folder / "r.html");
    CHECK(html.starts_with("<!doctype html>"));
    CHECK(html.find("http") == std::string::npos);
    bool compared = json::parse(ended.out)["runs"].size() > 1;
    CHECK(html.find(compared ? "bit for bit" : "nothing to compare") != std::string::npos);
}
