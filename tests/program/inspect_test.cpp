// vkmoe inspect of language models, deltas and packages; vkmoe run and convert of a packaged layer.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <nlohmann/json.hpp>

#include "tests/formats/layer_builder.h"
#include "tests/golden/golden.h"
#include "tests/program/program.h"

using nlohmann::json;
using namespace test;
using Catch::Matchers::ContainsSubstring;
using vkmoe::tests::Golden;

namespace {

json told(const std::string& path) {
    const Ended seen = program("inspect --json " + path);
    INFO(seen.err);
    REQUIRE(seen.code == 0);
    return json::parse(seen.out);
}

}  // namespace

TEST_CASE("inspect tells language models, deltas and packages", "[program][formats]") {
    Folder folder;
    put(folder / "a.evl0", Golden("lm/odd").blob("init_v2.evl0"));
    const json model = told(folder / "a.evl0");
    CHECK(model["kind"] == "EVL0");
    CHECK(model["parameters"] == 239);
    CHECK(model["format"] == "f16");
    CHECK(model["config"]["vocab_size"] == 11);
    CHECK(model["tensors"].size() == 13);
    CHECK(
        model["tensors"][0] ==
        json{
            {"name", "token_embedding.weight"}, {"format", "f16"}, {"shape", {11, 5}}, {"offset", 36}, {"bytes", 110}});
    CHECK_THAT(program("inspect " + (folder / "a.evl0")).out, ContainsSubstring("EVL0, a language model"));

    put(folder / "a.evd0", Golden("checksums").blob("delta.evd0"));
    const json delta = told(folder / "a.evd0");
    CHECK(delta["kind"] == "EVD0");
    CHECK(delta["row_size"] == 4);
    CHECK(delta["rows"] == 3);
    CHECK(delta["last_row"] == 5);
    CHECK_THAT(program("inspect " + (folder / "a.evd0")).out, ContainsSubstring("3 changed rows of 4 numbers"));

    const Golden packages("package");
    put(folder / "layer.evermind", packages.blob("moe_f32.evermind"));
    const json layer = told(folder / "layer.evermind");
    CHECK(layer["kind"] == "package");
    CHECK(layer["manifest"]["name"] == "oracle-tiny");
    CHECK(layer["checkpoint"]["kind"] == "MoE0");
    CHECK(layer["description"]["activation"] == "relu");
    CHECK(layer["parameters"] == 244);
    CHECK_THAT(program("inspect " + (folder / "layer.evermind")).out, ContainsSubstring("card.license: MIT"));
    put(folder / "media.evermind", packages.blob("media_image.evermind"));
    const json media = told(folder / "media.evermind");
    CHECK(media["codec"]["bytes"] == 100);
    CHECK(media["config"]["conv_kernel"] == 2);
}

TEST_CASE("inspect refuses damaged language models, deltas and packages", "[program][formats]") {
    Folder folder;
    const auto damaged = [](Bytes bytes) {
        bytes[bytes.size() - 9] ^= std::byte{1};
        return bytes;
    };
    put(folder / "a.evl0", damaged(Golden("lm/odd").blob("init_v1.evl0")));
    put(folder / "a.evd0", damaged(Golden("checksums").blob("delta.evd0")));
    put(folder / "a.evermind", damaged(Golden("package").blob("moe_f32.evermind")));
    put(folder / "empty.evermind", {});
    put(folder / "empty.evl0", {});
    for (const auto& [file, sentence] :
         {std::pair("a.evl0", "the CRC-32 in the trailer is"), std::pair("a.evd0", "the CRC-32 in the trailer is"),
          std::pair("a.evermind", "but the FNV-1a of the checkpoint is"),
          std::pair("empty.evermind", "length is 0 bytes; the header of"),
          std::pair("empty.evl0", "is empty; an EVL0 file"), std::pair("none.evl0", "cannot be opened")}) {
        CAPTURE(file);
        const Ended ended = program("inspect " + (folder / file));
        CHECK(ended.code == 3);
        CHECK(ended.out.empty());
        checkSentence(ended, std::string(file) + ": ");
        checkSentence(ended, sentence);
    }
}

TEST_CASE("a packaged layer runs and converts as the layer in it", "[program][formats]") {
    Folder folder;
    put(folder / "a.evermind", Golden("package").blob("moe_f32.evermind"));
    REQUIRE(program("convert " + (folder / "a.evermind") + " -o " + (folder / "a.moe0")).code == 0);
    const Bytes package = get(folder / "a.evermind"), layer = get(folder / "a.moe0");
    CHECK((layer == Bytes(package.end() - 1000, package.end())));
    writeFloats(folder / "in", {1, 2, 3, 4, -1, 0.5f, 0, 2});
    for (const char* name : {"a.evermind", "a.moe0"}) {
        const Ended ended = program("run " + (folder / name) + " --device cpu --input " + (folder / "in") +
                                    " --output " + (folder / (std::string(name) + ".out")));
        INFO(ended.err);
        CHECK(ended.code == 0);
    }
    CHECK((get(folder / "a.evermind.out") == get(folder / "a.moe0.out")));

    put(folder / "lm.evermind", Golden("package").blob("lm_f32.evermind"));
    const Ended ended = program("run " + (folder / "lm.evermind") + " --device cpu --input " + (folder / "in") +
                                " --output " + (folder / "out"));
    CHECK(ended.code == 3);
    checkSentence(ended, "lm.evermind: holds a language model, not a layer: vkmoe generate runs it");
}
