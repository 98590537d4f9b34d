// Malformed MoE0 files: each is refused with a sentence that names the file, the field and the number, before anything
// of the claimed size is allocated. What only looks strange (non-finite weights) is read.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <functional>

#include "engine/formats/moe0.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;

namespace {

using Bytes = std::vector<std::byte>;

constexpr Moe0Config kSmall = {4, 6, 3, 2};
constexpr size_t kVersion = 4, kModelDim = 8, kHiddenDim = 12, kExperts = 16, kTopK = 20;  // offsets in the header

Bytes good(bool fp16 = false) {
    Result<Bytes> bytes = initMoe0(kSmall, 5, fp16);
    REQUIRE(bytes);
    return std::move(*bytes);
}

Bytes cut(Bytes bytes, size_t length) {
    bytes.resize(length);
    return bytes;
}

Bytes with(size_t offset, uint32_t number, Bytes bytes = good()) {
    std::memcpy(&bytes.at(offset), &number, sizeof number);
    return bytes;
}

Bytes dimensions(uint32_t model_dim, uint32_t hidden_dim, uint32_t experts, Bytes bytes = good()) {
    return with(kModelDim, model_dim, with(kHiddenDim, hidden_dim, with(kExperts, experts, std::move(bytes))));
}

// The bytes lie in an allocation of exactly their size, so that a sanitizer sees every read beyond them.
Result<LayerSource> read(const Bytes& bytes, Moe0Options options = {}) {
    return readMoe0(memorySource("x.moe0", Bytes(bytes)), options);
}

std::string errorOf(const Bytes& bytes, Moe0Options options = {}) {
    const Result<LayerSource> layer = read(bytes, options);
    return layer ? "no error" : layer.error().detail;
}

// What every reader may rely on.
void checkSound(const LayerSource& layer) {
    const Description& description = layer.description;
    REQUIRE(description.top_k >= 1);
    REQUIRE(description.top_k <= description.experts);
    REQUIRE(layer.tensors.size() == 5 + 4 * size_t{description.experts});
    uint64_t end = 24;
    for (const TensorRange& tensor : layer.tensors) {
        REQUIRE(tensor.offset == end);
        end = tensor.offset + tensor.bytes;
    }
    REQUIRE(end <= layer.bytes->size());
    Bytes last(layer.tensors.back().bytes);
    REQUIRE(layer.bytes->read(layer.tensors.back().offset, last));
}

}  // namespace

TEST_CASE("malformed MoE0 files are refused with a reason", "[moe0][hostile]") {
    struct Row {
        const char* what;
        Bytes bytes;
        const char* sentence;  // what the error contains
    };
    const Row rows[] = {
        {"1 empty", {}, "x.moe0: is empty; a MoE0 file starts with a header of 24 bytes"},
        {"2 a header short of a byte", cut(good(), 23), "x.moe0: length is 23 bytes; the header of a MoE0 file has 24"},
        {"2 magic alone", cut(good(), 4), "x.moe0: length is 4 bytes; the header of a MoE0 file has 24"},
        {"3 header alone", cut(good(), 24),
         "length is 24 bytes; modelDim 4, hiddenDim 6, numExperts 3 in version 1 (float32) make exactly 1000"},
        {"4 reversed magic", with(0, 0x30456f4d), "magic is 0x30456f4d, that of MoE0 with its bytes reversed"},
        {"5 EVL0", with(0, 0x45564c30), "x.moe0: this is an EvermindLM checkpoint (EVL0), not a MoE0 layer"},
        {"another magic", with(0, 0x46554747), "x.moe0: magic is 0x46554747; MoE0 files start with 0x4d6f4530"},
        {"6 version 0", with(kVersion, 0), "x.moe0: version is 0; MoE0 files have version 1 (float32) or 2 (float16)"},
        {"7 version 3", with(kVersion, 3), "x.moe0: version is 3; MoE0 files have"},
        {"8 version 2^32-1", with(kVersion, UINT32_MAX), "x.moe0: version is 4294967295; MoE0 files have"},
        {"9 modelDim 0", with(kModelDim, 0), "x.moe0: modelDim is 0; it must be at least 1"},
        {"10 hiddenDim 0", with(kHiddenDim, 0), "x.moe0: hiddenDim is 0; it must be at least 1"},
        {"11 numExperts 0", with(kExperts, 0), "x.moe0: numExperts is 0; it must be at least 1"},
        {"12 topK 0", with(kTopK, 0), "x.moe0: topK is 0; it must be at least 1"},
        {"13 modelDim 2^32-1", with(kModelDim, UINT32_MAX),
         "modelDim 4294967295, hiddenDim 6, numExperts 3 in version 1 (float32) make exactly"},
        {"13 hiddenDim 2^32-1", with(kHiddenDim, UINT32_MAX),
         "modelDim 4, hiddenDim 4294967295, numExperts 3 in version 1 (float32) make exactly"},
        {"13 numExperts 2^32-1", with(kExperts, UINT32_MAX),
         "modelDim 4, hiddenDim 6, numExperts 4294967295 in version 1 (float32) make exactly"},
        {"13 topK 2^32-1", with(kTopK, UINT32_MAX), "topK is 4294967295; it must be at most numExperts, which is 3"},
        {"13 all of them", dimensions(UINT32_MAX, UINT32_MAX, UINT32_MAX),
         "make more parameters than 64 bits can count"},
        {"14 modelDim * hiddenDim wraps 32 bits to 0", dimensions(65536, 65536, 3), "make exactly 137441837080"},
        {"15 P fits 64 bits, 4P does not", dimensions(0x80000000, 0x40000000, 2),
         "make more bytes than 64 bits can count"},
        {"15 P itself wraps", dimensions(0x80000000, 0x80000000, 3), "make more parameters than 64 bits can count"},
        {"16 topK 4 of 3", with(kTopK, 4), "x.moe0: topK is 4; it must be at most numExperts, which is 3"},
        {"17 numExperts 65,536", with(kExperts, 65536),
         "length is 1000 bytes; modelDim 4, hiddenDim 6, numExperts 65536 in version 1 (float32) make exactly"},
        {"18 short of a byte", cut(good(), 999),
         "length is 999 bytes; modelDim 4, hiddenDim 6, numExperts 3 in version 1 (float32) make exactly 1000"},
        {"18 short of a byte, float16", cut(good(true), 511),
         "length is 511 bytes; modelDim 4, hiddenDim 6, numExperts 3 in version 2 (float16) make exactly 512"},
        {"19 short of a float", cut(good(), 996), "length is 996 bytes"},
        {"20 cut between experts", cut(good(), 1000 - 4 * 58), "length is 768 bytes"},
        {"21 one byte more", cut(good(), 1001), "length is 1001 bytes"},
        {"21 4 KiB more", cut(good(), 1000 + 4096), "length is 5096 bytes"},
        {"22 float16 data as version 1", with(kVersion, 1, good(true)),
         "make exactly 1000, and 512 is that of float16"},
        {"22 float32 data as version 2", with(kVersion, 2), "make exactly 512, and 1000 is that of float32"},
    };
    for (const Row& row : rows) {
        CAPTURE(row.what);
        CHECK_THAT(errorOf(row.bytes), ContainsSubstring(row.sentence));
        CHECK_THAT(errorOf(row.bytes), ContainsSubstring("x.moe0: "));
    }
}

TEST_CASE("strange weights are read as they are", "[moe0][hostile]") {
    // 23 and 24: NaN, infinities, negative NaN, all denormal, all 65504; the reader hands out bytes, the engine judges.
    for (uint32_t bits : {0x7fc00000u, 0xffc00001u, 0x7f800000u, 0xff800000u, 1u, 0x477fe000u}) {
        Bytes bytes = good();
        for (size_t at = 24; at < bytes.size(); at += 4) std::memcpy(&bytes[at], &bits, 4);
        const Result<LayerSource> layer = read(bytes);
        REQUIRE(layer);
        checkSound(layer.value());
    }
    for (uint16_t bits : {0x7e01, 0xfe01, 0x7c00, 0xfc00, 1, 0x7bff}) {
        Bytes bytes = good(true);
        for (size_t at = 24; at < bytes.size(); at += 2) std::memcpy(&bytes[at], &bits, 2);
        const Result<LayerSource> layer = read(bytes);
        REQUIRE(layer);
        checkSound(layer.value());
    }
}

TEST_CASE("every prefix of a MoE0 file is refused", "[moe0][hostile]") {
    for (bool fp16 : {false, true}) {
        const Bytes whole = good(fp16);
        for (size_t length = 0; length < whole.size(); ++length) {
            CAPTURE(fp16, length);
            REQUIRE_THAT(errorOf(cut(whole, length)), ContainsSubstring("x.moe0: "));
            const Result<LayerSource> compat = read(cut(whole, length), {.compat = true});
            REQUIRE(bool(compat) == (!fp16 && length >= 24 && length % 4 == 0));
            if (compat) checkSound(compat.value());
        }
    }
}

TEST_CASE("every flipped bit of a header gives an error or a sound layer", "[moe0][hostile]") {
    for (bool fp16 : {false, true})
        for (bool compat : {false, true})
            for (size_t bit = 0; bit < 24 * 8; ++bit) {
                CAPTURE(fp16, compat, bit);
                Bytes bytes = good(fp16);
                bytes[bit / 8] ^= std::byte(1 << bit % 8);
                const Result<LayerSource> layer = read(bytes, {.compat = compat, .max_completed_bytes = 1 << 20});
                if (layer)
                    checkSound(layer.value());
                else
                    REQUIRE_THAT(layer.error().detail, ContainsSubstring("x.moe0: "));
                // Dimensions and versions decide the length, so only topK can change and leave a strict file valid.
                if (layer && !compat) REQUIRE(bit / 8 >= kTopK);
            }
}

TEST_CASE("more experts than are supported are refused, though the file has them", "[moe0][hostile]") {
    Result<Bytes> bytes = initMoe0({1, 1, 65537, 1}, 1, true);
    REQUIRE(bytes);
    CHECK(errorOf(*bytes) == "x.moe0: numExperts is 65537; at most 65536 are supported");
    CHECK(errorOf(*bytes, {.compat = true}) == "x.moe0: numExperts is 65537; at most 65536 are supported");
}

TEST_CASE("compat completes no more than its limit, however much a header claims", "[moe0][hostile]") {
    const std::string end = "and at most 16777216 missing bytes are completed";
    CHECK_THAT(errorOf(cut(dimensions(65536, 65536, 3), 24), {.compat = true}), ContainsSubstring(end));
    CHECK_THAT(errorOf(cut(dimensions(1, 1, UINT32_MAX), 24), {.compat = true}),
               ContainsSubstring("numExperts is 4294967295"));
}
