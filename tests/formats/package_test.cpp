// .evermind packages: what the reference engine refuses and accepts, what is refused beyond that, and malformed files.
#include "engine/formats/package.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/formats/javascript_json.h"
#include "engine/formats/model_source.h"
#include "engine/formats/moe0.h"
#include "tests/golden/golden.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;
using Json = nlohmann::ordered_json;

namespace {

using Bytes = std::vector<std::byte>;
using Edit = std::function<void(Json&)>;

Bytes golden(const char* name) { return tests::Golden("package").blob(name); }
Bytes layer() { return golden("moe_f32.evermind"); }
Bytes media() { return golden("media_image.evermind"); }

std::shared_ptr<const ByteSource> source(const Bytes& bytes) { return memorySource("x.evermind", Bytes(bytes)); }

uint32_t word(const Bytes& bytes, size_t offset) {
    uint32_t number = 0;
    std::memcpy(&number, &bytes.at(offset), sizeof number);
    return number;
}

Bytes with(size_t offset, uint32_t number, Bytes bytes = layer()) {
    std::memcpy(&bytes.at(offset), &number, sizeof number);
    return bytes;
}

// With another manifest.
Bytes told(const std::string& manifest, const Bytes& bytes = layer()) {
    Bytes out = with(8, uint32_t(manifest.size()), Bytes(bytes.begin(), bytes.begin() + 12));
    const auto text = std::as_bytes(std::span(manifest));
    out.insert(out.end(), text.begin(), text.end());
    out.insert(out.end(), bytes.begin() + 12 + word(bytes, 8), bytes.end());
    return out;
}

std::string manifestOf(const Bytes& bytes) { return {reinterpret_cast<const char*>(&bytes[12]), word(bytes, 8)}; }

Bytes edited(const Edit& edit, const Bytes& bytes = layer()) {
    Json manifest = Json::parse(manifestOf(bytes));
    edit(manifest);
    return told(manifest.dump(), bytes);
}

std::string errorOf(const Bytes& bytes, bool compat = false) {
    const auto package = readPackage(source(bytes), compat);
    return package ? "no error" : package.error().detail;
}

std::vector<std::string> failures(const Bytes& bytes, bool compat) {
    const auto package = findPackage(source(bytes), compat);
    if (!package) FAIL(package.error().detail);
    return packageFailures(package.value(), compat).value();
}

std::string layerError(const Bytes& bytes, bool compat = false) {
    const auto package = readPackage(source(bytes), compat);
    if (!package) return package.error().detail;
    const auto read = readPackagedLayer(package.value(), compat);
    return read ? "no error" : read.error().detail;
}

}  // namespace

TEST_CASE("packages are validated as the reference engine does, and beyond", "[formats][package]") {
    struct Row {
        Bytes bytes;
        std::vector<std::string> both;    // what each failure starts with, compat or not
        std::vector<std::string> strict;  // those without compat, after them
    };
    const std::string sum = "checksum is 1847411653, but the FNV-1a of the checkpoint is ";
    Bytes cut = layer(), flipped = layer(), longer = layer(), codec = media();
    cut.resize(cut.size() - 4);
    flipped.back() ^= std::byte{1};
    longer.push_back(std::byte{0});
    codec.back() ^= std::byte{1};
    const Row rows[] = {
        {layer(), {}, {}},
        {cut, {sum + "336552309"}, {}},
        {flipped, {sum}, {}},
        {longer, {sum + "487698207"}, {}},
        {edited([](Json& m) { m["schema"] = "evermind.model/2"; }), {"schema is \"evermind.model/2\", must be"}, {}},
        {edited([](Json& m) { m["modelType"] = "other"; }), {"modelType is \"other\", must be"}, {}},
        {edited([](Json& m) { m["config"] = nullptr; }), {"config is undefined, must be an object"}, {}},
        {edited([](Json& m) { m["config"] = Json::object(); }), {}, {"config.modelDim is missing"}},
        {edited([](Json& m) { m["config"]["hiddenDim"] = 0; }), {"config.hiddenDim is 0, must be at least 1"}, {}},
        {edited([](Json& m) { m["config"]["modelDim"] = -4; }), {"config.modelDim is -4, must be at least 1"}, {}},
        {edited([](Json& m) { m["config"]["topK"] = 4; }), {"config.topK is 4, must be at most config.numExperts"}, {}},
        {edited([](Json& m) { m["config"]["topK"] = 0; }), {"config.topK is 0, must be at least 1"}, {}},
        {edited([](Json& m) { m["config"]["topK"] = 0.5; }), {"config.topK is 0.5, must be at least 1"}, {}},
        {edited([](Json& m) { m["config"]["topK"] = 1.5; }), {}, {"config.topK is 1.5, must be whole"}},
        {edited([](Json& m) { m["config"]["modelDim"] = 1e10; }),
         {},
         {"config.modelDim is 10000000000.0, must be at m"}},
        {edited([](Json& m) { m["config"]["topK"] = "1"; }), {"config.topK is \"1\", must be a number"}, {}},
        {edited([](Json& m) { m["checkpointFormat"] = "EVL0"; }), {}, {"checkpointFormat is \"EVL0\", of \"shared-e"}},
        {edited([](Json& m) { m["modality"] = "video"; }),
         {"modality is \"video\", but there is no codec"},
         {"codecFormat is undefined"}},
        {edited([](Json& m) { m["modality"] = "smell"; }), {}, {"modality is \"smell\", must be"}},
        {edited([](Json& m) { m["checkpointBytes"] = 1000 - 4; }),
         {sum + "336552309"},
         {"4 bytes follow the checkpoint"}},
        {edited([](Json& m) { m["schema"] = "x", m["config"] = nullptr, m["checksum"] = 1, m["modality"] = "image"; }),
         {"schema is \"x\"", "config is undefined", "checksum is 1, but the FNV-1a of the checkpoint is 1847411653",
          "modality is \"image\""},
         {"codecFormat is undefined"}},
        {media(), {}, {}},
        {codec, {"codecChecksum is 24636234, but the FNV-1a of the codec is "}, {}},
        {edited([](Json& m) { m.erase("checksum"); }), {"checksum is undefined, but the FNV-1a"}, {}},
        {edited([](Json& m) { m["config"]["convKernel"] = 0; }, golden("lm_f32.evermind")), {}, {}},
        {edited([](Json& m) { m["config"]["convKernel"] = -1; }, golden("lm_f32.evermind")),
         {},
         {"config.convKernel is -1, must be at least 0"}},
        {edited([](Json& m) { m["config"]["numLayers"] = 0; }, golden("lm_f32.evermind")),
         {"config.numLayers is 0"},
         {}},
    };
    for (const Row& row : rows) {
        for (const bool compat : {true, false}) {
            std::vector<std::string> expected = row.both;
            if (!compat) expected.insert(expected.end(), row.strict.begin(), row.strict.end());
            const auto found = failures(row.bytes, compat);
            CAPTURE(expected, found, compat);
            REQUIRE(found.size() == expected.size());
            for (size_t i = 0; i < found.size(); ++i) CHECK(found[i].starts_with(expected[i]));
        }
    }
    CHECK(
        errorOf(edited([](Json& m) { m["schema"] = "x", m["checksum"] = 1; })) ==
        "x.evermind: schema is \"x\", must be \"evermind.model/1\"; checksum is 1, but the FNV-1a of the checkpoint is "
        "1847411653: it is damaged");
}

TEST_CASE("malformed packages are refused with a reason", "[formats][package][hostile]") {
    const std::string manifest = manifestOf(layer());
    const auto size = uint32_t(layer().size());
    const std::string deep =
        manifest.substr(0, manifest.size() - 1) + ",\"x\":" + std::string(63, '[') + std::string(63, ']') + "}";
    const std::string deeper = manifest.substr(0, manifest.size() - 1) + ",\"x\":" + std::string(100'000, '[');
    Bytes eleven = layer();
    eleven.resize(11);
    const std::pair<Bytes, std::string> rows[] = {
        {{}, "x.evermind: length is 0 bytes; the header of an .evermind file has 12"},
        {eleven, "x.evermind: length is 11 bytes"},
        {with(0, 0x314d5645), "x.evermind: magic is 0x314d5645; .evermind files start with 0x45564d31"},
        {with(4, 99), "x.evermind: version is 99; .evermind files have version 1"},
        {with(8, size - 11), "x.evermind: the manifest has " + std::to_string(size - 11) + " bytes, but "},
        {with(8, UINT32_MAX), "x.evermind: the manifest has 4294967295 bytes, but "},
        {with(8, 0), "x.evermind: the manifest is no valid JSON"},
        {told("!" + manifest), "x.evermind: the manifest is no valid JSON at its byte 1"},
        {told(manifest + "}"), "x.evermind: the manifest is no valid JSON"},
        {told("[]"), "x.evermind: the manifest is an array, must be an object"},
        {told("null"), "x.evermind: the manifest is null, must be an object"},
        {told("{}"), "x.evermind: schema is undefined, must be"},
        {told("{\"name\":\"\xff\"}"), "x.evermind: the manifest is not UTF-8"},
        {told("{\"name\":\"a\",\"name\":\"b\"}"), "x.evermind: the manifest has two values of name"},
        {told("{\"config\":{\"topK\":1},\"config\":{}}"), "x.evermind: the manifest has two values of config"},
        {told(deeper), "x.evermind: the manifest has more than 64 levels"},
        {told("{" + std::string(5 << 20, ' ') + "}"), "x.evermind: the manifest has 5242882 bytes, at most 4194304"},
        {edited([](Json& m) { m["checkpointBytes"] = 1001; }),
         "x.evermind: checkpointBytes is 1001, but 1000 bytes follow the manifest"},
        {edited([](Json& m) { m["checkpointBytes"] = -1; }),
         "x.evermind: checkpointBytes is -1, must be a whole number"},
        {edited([](Json& m) { m["checkpointBytes"] = 1.5; }), "x.evermind: checkpointBytes is 1.5, must be"},
        {edited([](Json& m) { m["checkpointBytes"] = "1"; }), "x.evermind: checkpointBytes is \"1\", must be"},
        {edited([](Json& m) { m["checkpointBytes"] = 1e300; }), "x.evermind: checkpointBytes is 1e+300, but"},
        {told("{\"checkpointBytes\":1e999}"), "x.evermind: the manifest has a number that no double holds"},
        {told("{\"checkpointBytes\":18446744073709551615}"),
         "x.evermind: checkpointBytes is 18446744073709551615, but"},
    };
    for (const auto& [bytes, sentence] : rows) {
        CAPTURE(sentence);
        CHECK_THAT(errorOf(bytes), ContainsSubstring(sentence));
        if (!sentence.starts_with("x.evermind: version")) CHECK(errorOf(bytes, true) != "no error");
    }
    CHECK(errorOf(told(deep)) == "no error");
    CHECK(errorOf(with(4, 99), true) == "no error");
    CHECK(findPackage(source(with(4, 99)), true).value().warnings.size() == 1);
}

TEST_CASE("every truncated package and every flipped bit is refused", "[formats][package][hostile]") {
    for (const Bytes& whole : {golden("moe_fp16.evermind"), media()}) {
        for (size_t length = 0; length < whole.size(); ++length) {
            Bytes cut = whole;
            cut.resize(length);
            CAPTURE(length);
            CHECK(errorOf(cut).starts_with("x.evermind: "));
            CHECK(errorOf(cut, true).starts_with("x.evermind: "));
        }
        const size_t manifest_end = 12 + word(whole, 8);
        for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
            if (bit / 8 >= 12 && bit / 8 < manifest_end) continue;  // nothing protects the manifest
            Bytes flipped = whole;
            flipped[bit / 8] ^= std::byte(1 << bit % 8);
            CAPTURE(bit);
            CHECK(errorOf(flipped) != "no error");
        }
    }
}

TEST_CASE("a manifest that disagrees with its checkpoint is refused", "[formats][package][hostile]") {
    CHECK(layerError(layer()) == "no error");
    CHECK(layerError(edited([](Json& m) { m["config"]["modelDim"] = 5; })) ==
          "x.evermind: config.modelDim is 5 in the manifest, and 4 in the checkpoint");
    CHECK(layerError(edited([](Json& m) { m["config"]["topK"] = 2; }), true) ==
          "x.evermind: config.topK is 2 in the manifest, and 1 in the checkpoint");
    const Bytes count = edited([](Json& m) { m["paramCount"] = 245; });
    CHECK(layerError(count) == "x.evermind: paramCount is 245 in the manifest, and 244 in the checkpoint");
    CHECK(layerError(count, true) == "no error");
    const Bytes half = edited([](Json& m) { m["checkpointFp16"] = true; });
    CHECK(layerError(half) == "x.evermind: checkpointFp16 is true in the manifest, and false in the checkpoint");
    CHECK(layerError(half, true) == "no error");
    CHECK(layerError(edited([](Json& m) { m["config"] = Json::object(); }), true) == "no error");

    // A checkpoint of the other kind, under a checksum that fits.
    Bytes other = edited([](Json& m) { m["modelType"] = kLmPackage, m["checkpointFormat"] = "EVL0"; });
    CHECK_THAT(errorOf(other, false), ContainsSubstring("config.vocabSize is missing"));
    const auto package = readPackage(source(other), true);
    REQUIRE(package);
    CHECK_THAT(readPackagedLm(package.value(), true).error().detail,
               ContainsSubstring("x.evermind (checkpoint): magic is 0x4d6f4530; EVL0 files start with"));
    CHECK_THAT(readPackagedLayer(package.value(), true).error().detail,
               ContainsSubstring("modelType is \"evermind-lm\", not a layer: it holds a language model"));
    CHECK_THAT(readPackagedLm(readPackage(source(layer())).value()).error().detail,
               ContainsSubstring("modelType is \"shared-expert-moe\", not a language model: it holds a layer"));
}

TEST_CASE("a package of a layer is opened as the layer", "[formats][package]") {
    const auto model = readModel(source(layer()));
    if (!model) FAIL(model.error().detail);
    CHECK(model.value().format == FileFormat::moe0);
    REQUIRE(model.value().layers.size() == 1);
    CHECK(model.value().layers[0].description.hidden_dim == 6);
    const auto lm = readModel(source(golden("lm_f32.evermind")));
    REQUIRE(!lm);
    CHECK(lm.error().detail == "x.evermind: holds a language model, not a layer: vkmoe generate runs it");
    CHECK_THAT(readModel(source(edited([](Json& m) { m["schema"] = 1; }))).error().detail,
               ContainsSubstring("x.evermind: schema is 1, must be"));
}

TEST_CASE("packages keep what they do not know", "[formats][package]") {
    std::string manifest = manifestOf(layer());
    manifest.insert(manifest.size() - 1, R"(,"z":{"b":[1,2.50,1e2],"a":null},"1":"ünï")");
    const Bytes bytes = told(manifest);
    const Package package = readPackage(source(bytes)).value();
    CHECK((packageBytes(package).value() == bytes));
    const auto other = initMoe0({4, 6, 3, 1}, 77, true);
    const auto replaced = replaceCheckpoint(package, memorySource("new", Bytes(other.value())));
    if (!replaced) FAIL(replaced.error().detail);
    CHECK_THAT(manifestOf(replaced.value()), ContainsSubstring(R"(,"z":{"b":[1,2.5,100],"a":null},"1":"ünï"})"));
    CHECK_THAT(manifestOf(replaced.value()), ContainsSubstring(R"("checkpointFp16":true,)"));
    CHECK(layerError(replaced.value()) == "no error");
    manifest.insert(manifest.size() - 1, ",\"long\":\"" + std::string(300'000, 'x') + "\"");
    const Package large = readPackage(source(told(manifest))).value();
    CHECK_THAT(replaceCheckpoint(large, memorySource("new", Bytes(other.value()))).error().detail,
               ContainsSubstring("bytes, at most 262144 are written anew"));
    const auto wider = initMoe0({5, 6, 3, 1});
    CHECK_THAT(replaceCheckpoint(package, memorySource("new", Bytes(wider.value()))).error().detail,
               ContainsSubstring("config.modelDim is 4, of the new checkpoint it is 5"));
}

TEST_CASE("what makes no package is refused", "[formats][package]") {
    const auto checkpoint = memorySource("c.moe0", initMoe0({4, 6, 3, 1}).value());
    const auto sentence = [&](const PackageInfo& info, std::shared_ptr<const ByteSource> bytes) {
        const auto written = writePackage(info, std::move(bytes));
        return written ? "no error" : written.error().detail;
    };
    const Bytes codec(4);
    CHECK(sentence({.name = "\xff"}, checkpoint) == "a text of the manifest is not UTF-8");
    CHECK_THAT(sentence({.name = "n", .modality = "image"}, checkpoint), ContainsSubstring("the codec has 0 bytes"));
    CHECK_THAT(sentence({.name = "n", .codec = codec}, checkpoint), ContainsSubstring("the codec has 4 bytes"));
    CHECK_THAT(sentence({.name = "n", .modality = "smell", .codec = codec}, checkpoint), ContainsSubstring("smell"));
    CHECK_THAT(sentence({.name = "n", .modality = "video", .codec = codec}, checkpoint),
               ContainsSubstring("the checkpoint is a layer"));
    CHECK_THAT(sentence({.name = "n"}, memorySource("c.moe0", Bytes(3))), ContainsSubstring("c.moe0: length is 3"));
    const auto odd = writePackage({.name = "a\"\\\n\x01", .version = "", .seed = 1.9}, checkpoint);
    REQUIRE(odd);
    CHECK_THAT(manifestOf(odd.value()), ContainsSubstring(R"("name":"a\"\\\n\u0001","version":"",)"));
    CHECK_THAT(manifestOf(odd.value()), ContainsSubstring(R"("topK":1,"seed":1.9})"));
    CHECK(layerError(odd.value()) == "no error");
}

TEST_CASE("numbers are written as JavaScript writes them", "[formats][package]") {
    const std::pair<double, const char*> rows[] = {{0, "0"},
                                                   {-0.0, "0"},
                                                   {1, "1"},
                                                   {1.5, "1.5"},
                                                   {-1, "-1"},
                                                   {1e21, "1e+21"},
                                                   {1e20, "100000000000000000000"},
                                                   {123456789012345680000.0, "123456789012345680000"},
                                                   {1e-6, "0.000001"},
                                                   {1e-7, "1e-7"},
                                                   {1.5e-7, "1.5e-7"},
                                                   {0.1, "0.1"},
                                                   {9007199254740992.0, "9007199254740992"},
                                                   {1.0 / 3, "0.3333333333333333"},
                                                   {5e-324, "5e-324"},
                                                   {1.7976931348623157e308, "1.7976931348623157e+308"},
                                                   {-2.5e-10, "-2.5e-10"},
                                                   {4294967295.0, "4294967295"},
                                                   {0.000001234, "0.000001234"},
                                                   {12345.678, "12345.678"},
                                                   {1e22, "1e+22"},
                                                   {NAN, "null"},
                                                   {-INFINITY, "null"}};
    for (const auto& [number, text] : rows) CHECK(javascriptNumber(number) == text);
}
