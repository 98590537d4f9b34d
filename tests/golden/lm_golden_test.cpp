// EVL0, EVD0 and .evermind files against what the reference engine recorded: bytes, not tolerances.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <optional>

#include "engine/formats/crc_trailer.h"
#include "engine/formats/evl0.h"
#include "engine/formats/moe0.h"
#include "engine/formats/package.h"
#include "engine/formats/row_delta.h"
#include "tests/bits.h"
#include "tests/golden/golden.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using vkmoe::tests::Golden;

namespace {

using Bytes = std::vector<std::byte>;

LmConfig configOf(const Golden& golden) {
    const auto field = [&](const char* key) { return static_cast<uint32_t>(golden.number(key)); };
    return {field("vocabSize"), field("dModel"),     field("numLayers"), field("convKernel"),
            field("hiddenDim"), field("numExperts"), field("topK")};
}

std::vector<float> mustInit(const Golden& golden) {
    std::optional<uint32_t> seed;
    if (golden.hasNumber("seed")) seed = toUint32(golden.number("seed"));
    auto parameters = initialLm(configOf(golden), seed);
    REQUIRE(parameters);
    return std::move(parameters).value();
}

std::shared_ptr<const ByteSource> source(const Bytes& bytes) { return memorySource("golden", Bytes(bytes)); }

LmSource mustRead(const Bytes& bytes) {
    auto model = readEvl0(source(bytes));
    if (!model) FAIL(model.error().detail);
    return std::move(model).value();
}

std::vector<float> parametersOf(const Bytes& bytes) {
    auto parameters = readParameters(mustRead(bytes));
    if (!parameters) FAIL(parameters.error().detail);
    return std::move(parameters).value();
}

}  // namespace

TEST_CASE("a language model's cold start equals the reference engine's file", "[golden][evl0]") {
    const auto cases = Golden::cases("lm/");
    REQUIRE(cases.size() == 4);
    for (const std::string& name : cases) {
        CAPTURE(name);
        const Golden golden(name);
        const LmConfig config = configOf(golden);
        CHECK(parameterCount(config) == golden.number("paramCount"));
        const std::vector<float> parameters = mustInit(golden);
        for (const bool fp16 : {false, true}) {
            const std::string file = fp16 ? "init_v2.evl0" : "init_v1.evl0";
            const auto bytes = writeEvl0(config, parameters, fp16);
            REQUIRE(bytes);
            CHECK(bytes.value().size() == golden.digest(file).size);
            CHECK(golden.digest(file).matches(bytes.value()));
            if (golden.hasBlob(file)) CHECK((bytes.value() == golden.blob(file)));
        }
    }
}

TEST_CASE("reading and writing the reference engine's language models gives their bytes back", "[golden][evl0]") {
    for (const std::string& name : Golden::cases("lm/")) {
        const Golden golden(name);
        for (const std::string file : {"init_v1.evl0", "init_v2.evl0", "train_plain_final.evl0"}) {
            if (!golden.hasBlob(file)) continue;
            CAPTURE(name, file);
            const Bytes bytes = golden.blob(file);
            const LmSource model = mustRead(bytes);
            CHECK(model.config == configOf(golden));
            CHECK(model.warnings.empty());
            CHECK((model.format == WeightFormat::f16) == (file == "init_v2.evl0"));
            const auto written = writeEvl0(model.config, parametersOf(bytes), model.format == WeightFormat::f16);
            REQUIRE(written);
            CHECK((written.value() == bytes));
        }
    }
}

TEST_CASE("checksums and the trailer are the reference engine's", "[golden][evl0][delta]") {
    const Golden golden("checksums");
    Bytes ramp(256);
    for (size_t i = 0; i < ramp.size(); ++i) ramp[i] = std::byte(i);
    const auto text = [](std::string_view letters) {
        const auto bytes = std::as_bytes(std::span(letters));
        return Bytes(bytes.begin(), bytes.end());
    };
    const std::pair<const char*, Bytes> rows[] = {
        {"empty", {}}, {"a", text("a")}, {"digits", text("123456789")}, {"bytes256", ramp}};
    for (const auto& [name, bytes] : rows) {
        CAPTURE(name);
        CHECK(formats::crc32(bytes) == golden.number(std::string(name) + ":crc32"));
        CHECK(formats::fnv1a(bytes) == golden.number(std::string(name) + ":fnv1a"));
    }
    Bytes digits = text("123456789");
    appendTrailer(digits);
    CHECK((digits == text("123456789EVCR\x26\x39\xf4\xcb")));
    const auto trailer = readTrailer(*source(digits));
    REQUIRE(trailer);
    CHECK(trailer.value().present);
    CHECK(trailer.value().body == 9);
    CHECK(checkTrailer(*source(digits), trailer.value()));
}

TEST_CASE("row deltas are the reference engine's", "[golden][delta]") {
    const Golden golden("checksums");
    const std::vector<float> base = golden.f32("delta:base"), current = golden.f32("delta:current");
    const auto delta = computeRowDelta(base, current, 4);
    REQUIRE(delta);
    CHECK(delta.value().rows == std::vector<uint32_t>{1, 3, 5});
    CHECK((writeRowDelta(delta.value()) == golden.blob("delta.evd0")));
    const auto read = readRowDelta(*source(golden.blob("delta.evd0")));
    REQUIRE(read);
    const auto applied = applyRowDelta(base, read.value());
    REQUIRE(applied);
    CHECK(test::sameBits(applied.value(), current));

    std::vector<float> with_nan = base;
    with_nan[5] = NAN;
    CHECK(computeRowDelta(base, with_nan, 4).value().rows.empty());
    CHECK(computeRowDelta(with_nan, base, 4).value().rows.empty());
    CHECK(computeRowDelta(base, with_nan, 4, {.by_bits = true}).value().rows == std::vector<uint32_t>{1});
}

TEST_CASE("a language model's delta is the reference engine's and restores it", "[golden][delta]") {
    for (const std::string name : {"lm/small", "lm/odd", "lm/kE3"}) {
        CAPTURE(name);
        const Golden golden(name);
        const Bytes from = golden.blob("init_v1.evl0"), to = golden.blob("train_plain_final.evl0");
        const std::vector<float> base = parametersOf(from), current = parametersOf(to);
        const auto delta = computeLmDelta(configOf(golden), base, current);
        REQUIRE(delta);
        const Bytes file = writeRowDelta(delta.value());
        CHECK(golden.digest("delta.evd0").matches(file));
        const auto read = readRowDelta(*source(file));
        REQUIRE(read);
        const auto applied = applyRowDelta(base, read.value());
        REQUIRE(applied);
        CHECK(test::sameBits(applied.value(), current));

        const auto difference = computeFileDelta(*source(from), *source(to));
        REQUIRE(difference);
        CHECK(difference.value().row_size == 1);
        const auto patched = applyFileDelta(*source(from), difference.value());
        REQUIRE(patched);
        CHECK((patched.value() == to));
    }
}

TEST_CASE("the reference engine's packages are read and written byte for byte", "[golden][package]") {
    const Golden golden("package");
    for (const std::string file : {"moe_f32", "moe_fp16", "moe_seed_nodate", "lm_f32", "lm_fp16", "media_image"}) {
        CAPTURE(file);
        const Bytes bytes = golden.blob(file + ".evermind");
        for (const bool compat : {false, true}) {
            const auto package = readPackage(source(bytes), compat);
            if (!package) FAIL(package.error().detail);
            CHECK((packageBytes(package.value()).value() == bytes));
        }
        const Package package = readPackage(source(bytes)).value();
        PackageInfo info{.name = "oracle-tiny", .version = "1.2.3", .created_at = "2026-07-14T00:00:00.000Z"};
        info.card = {"golden é世 \"quoted\"", "none", "MIT", "oracle", std::vector<std::string>{"a", "b"}};
        if (file == "moe_seed_nodate") info = {.name = "n", .version = "0", .card = {}, .seed = 9};
        Bytes codec(package.codec_bytes);
        REQUIRE(codecOf(package)->read(0, codec));
        if (file == "media_image") info.modality = "image";
        if (file == "media_image") info.codec = codec;
        const auto written = writePackage(info, checkpointOf(package));
        if (!written) FAIL(written.error().detail);
        CHECK((written.value() == bytes));
        CHECK((replaceCheckpoint(package, checkpointOf(package)).value() == bytes));
        CHECK(bool(readPackagedLayer(package)) == file.starts_with("moe"));
        CHECK(bool(readPackagedLm(package)) == !file.starts_with("moe"));
    }
}
