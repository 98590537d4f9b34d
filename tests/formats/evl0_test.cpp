// EVL0 files: the shape of language models, and malformed files, each refused with a sentence that names file, field
// and number before anything of the claimed size is allocated.
#include "engine/formats/evl0.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/formats/crc_trailer.h"
#include "engine/formats/evl0_view.h"
#include "engine/formats/model_source.h"
#include "engine/formats/moe0.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;

namespace {

using Bytes = std::vector<std::byte>;

constexpr LmConfig kSmall = {5, 4, 2, 3, 6, 3, 2};
constexpr size_t kVersion = 4, kVocab = 8, kDim = 12, kLayers = 16, kKernel = 20, kHidden = 24, kExperts = 28,
                 kTopK = 32;  // offsets in the header

Bytes good(bool fp16 = false) {
    const auto parameters = initialLm(kSmall, 5);
    REQUIRE(parameters);
    return writeEvl0(kSmall, parameters.value(), fp16).value();
}

// With a trailer that fits the new body.
Bytes sealed(Bytes bytes) {
    bytes.resize(bytes.size() - kTrailerBytes);
    appendTrailer(bytes);
    return bytes;
}

Bytes cut(Bytes bytes, size_t length) {
    bytes.resize(length);
    return bytes;
}

template <class Number>
Bytes with(size_t offset, Number number, Bytes bytes = good()) {
    std::memcpy(&bytes.at(offset), &number, sizeof number);
    return sealed(std::move(bytes));
}

Bytes header(uint32_t value) {
    Bytes bytes = good();
    for (size_t offset = kVocab; offset < 36; offset += 4) bytes = with(offset, value, std::move(bytes));
    return bytes;
}

Result<LmSource> read(const Bytes& bytes, Evl0Options options = {}) {
    return readEvl0(memorySource("x.evl0", Bytes(bytes)), options);
}

std::string errorOf(const Bytes& bytes, Evl0Options options = {}) {
    const auto model = read(bytes, options);
    return model ? "no error" : model.error().detail;
}

std::string parameterError(const Bytes& bytes) {
    const auto model = read(bytes);
    REQUIRE(model);
    const auto parameters = readParameters(model.value());
    return parameters ? "no error" : parameters.error().detail;
}

}  // namespace

TEST_CASE("a language model's tensors have names, shapes and places", "[formats][evl0]") {
    CHECK(completed({.vocab_size = 3, .model_dim = 5}).hidden_dim == 10);
    CHECK(completed(kSmall) == kSmall);
    for (const LmConfig& config : {kSmall, LmConfig{1, 1, 1, 1, 1, 1, 1}, LmConfig{31, 7, 3, 2, 13, 5, 5}}) {
        REQUIRE(validate(config));
        const auto tensors = lmTensors(config);
        REQUIRE(tensors.size() == 1 + config.layers * (8 + 4 * config.experts));
        uint64_t end = 0;
        for (const LmTensor& tensor : tensors) {
            CHECK(tensor.first == end);
            end += tensor.count;
        }
        CHECK(end == parameterCount(config));
    }
    const auto tensors = lmTensors(kSmall);
    CHECK(tensors[0].name == "token_embedding.weight");
    CHECK(tensors[1].name == "layers.0.conv.weight");
    CHECK(tensors[1].shape == std::vector<uint64_t>{4, 3});
    CHECK(tensors[5].name == "layers.0.moe.shared.w1");
    CHECK(tensors[5].shape == std::vector<uint64_t>{6, 4});
    CHECK(tensors.back().name == "layers.1.moe.experts.2.b2");
}

TEST_CASE("a view of parameters has the bytes of the file", "[formats][evl0]") {
    auto parameters = initialLm(kSmall, 3).value();
    const Bytes whole = writeEvl0(kSmall, parameters).value();
    const auto view = evl0View("v.evl0", kSmall, parameters).value();
    REQUIRE(view->size() == whole.size());
    for (size_t length : {size_t{1}, size_t{7}, size_t{40}, whole.size()})
        for (size_t at = 0; at + length <= whole.size(); at += length) {
            Bytes some(length);
            REQUIRE(view->read(at, some));
            CHECK(std::equal(some.begin(), some.end(), whole.begin() + ptrdiff_t(at)));
        }
    Bytes more(2);
    const auto behind = view->read(whole.size() - 1, more);
    REQUIRE(!behind);
    CHECK(behind.error().detail.starts_with("v.evl0: 2 bytes at offset "));
    REQUIRE(readEvl0(view));
    parameters[3] = INFINITY;
    CHECK(evl0View("v.evl0", kSmall, parameters).error().detail == writeEvl0(kSmall, parameters).error().detail);
    CHECK(!evl0View("v.evl0", kSmall, std::span(parameters).first(5)));
}

TEST_CASE("a language model's shape has limits", "[formats][evl0]") {
    constexpr uint32_t kMost = std::numeric_limits<uint32_t>::max();
    const auto refused = [](LmConfig config, const char* sentence) {
        const auto valid = validate(config);
        REQUIRE(!valid);
        CHECK_THAT(valid.error().detail, ContainsSubstring(sentence));
        CHECK(!initialLm(config));
        CHECK(!writeEvl0(config, {}));
    };
    refused({}, "vocabSize is 0; it must be at least 1");
    refused({5, 0, 2, 3, 6, 3, 2}, "dModel is 0");
    refused({5, 4, 2, 3, 0, 3, 2}, "hiddenDim is 0");
    refused({5, 4, 2, 3, 6, 0, 2}, "numExperts is 0");
    refused({5, 4, 2, 3, 6, 3, 0}, "topK is 0");
    refused({5, 4, 2, 3, 6, 3, 4}, "topK is 4; it must be at most numExperts, which is 3");
    refused({1u << 29, 4, 2, 3, 6, 3, 2}, "vocabSize is 536870912 and dModel 4, which makes 2147483648 numbers");
    refused({5, 4, 2, kMost, 6, 3, 2}, "convKernel is 4294967295 and dModel 4");
    refused({5, 4, 2, 3, kMost, 3, 2}, "hiddenDim is 4294967295 and dModel 4");
    refused({5, 1, 2, 3, 6, kMost, 2}, "numExperts is 4294967295 and dModel 1");
    refused({5, 4, 2, 3, 6, 1u << 20, 2}, "numLayers is 2 and numExperts 1048576, which makes more than");
    refused({5, 4, kMost, 3, 6, 3, 2}, "numLayers is 4294967295 and numExperts 3, which makes more than");
    refused({5, 1u << 15, 4, 3, 1u << 15, 3, 2}, "parameters; at most 17179869184 are supported");
    refused({kMost, kMost, kMost, kMost, kMost, kMost, kMost}, "vocabSize is 4294967295 and dModel 4294967295");
    refused(completed({.vocab_size = 1, .model_dim = kMost}), "dModel 4294967295");
    CHECK(validate(LmConfig{(1u << 29) - 1, 4, 2, 3, 6, 3, 2}));
    CHECK(validate(LmConfig{5, 4, 0, 0, 6, 3, 2}));
}

TEST_CASE("malformed EVL0 files are refused with a reason", "[formats][evl0][hostile]") {
    const size_t size = good().size();
    const std::string told = "vocabSize 5, dModel 4, numLayers 2, convKernel 3, hiddenDim 6, numExperts 3 in version ";
    Bytes wrong_crc = good();
    wrong_crc.back() ^= std::byte{1};
    Bytes damaged = good();
    damaged[40] ^= std::byte{128};
    Bytes no_trailer_magic = good();
    no_trailer_magic[size - 8] ^= std::byte{1};
    Bytes longer = cut(good(), size - 8);
    longer.resize(size);  // 8 bytes more, and a trailer that fits
    appendTrailer(longer);
    const std::pair<Bytes, std::string> rows[] = {
        {{}, "x.evl0: is empty; an EVL0 file starts with a header of 36 bytes"},
        {cut(good(), 35), "x.evl0: length is 35 bytes; the header of an EVL0 file has 36"},
        {with(0, 0x304c5645u), "magic is 0x304c5645, that of EVL0 with its bytes reversed"},
        {with(0, 0x4d6f4530u), "x.evl0: magic is 0x4d6f4530; EVL0 files start with 0x45564c30"},
        {with(kVersion, 0u), "x.evl0: version is 0; EVL0 files have version 1 (float32) or 2 (float16)"},
        {with(kVersion, 3u), "x.evl0: version is 3"},
        {with(kVersion, 2u), told + "2 (float16) make exactly"},
        {with(kVersion, 2u), "is that of float32"},
        {with(kVersion, 1u, good(true)), "is that of float16"},
        {with(kVocab, 0u), "x.evl0: vocabSize is 0"},
        {with(kDim, 0u), "x.evl0: dModel is 0"},
        {with(kLayers, 0u),
         "numLayers 0, convKernel 3, hiddenDim 6, numExperts 3 in version 1 (float32) make exactly 124"},
        {with(kKernel, 0u), "numLayers 2, convKernel 0"},
        {with(kHidden, 0u), "x.evl0: hiddenDim is 0"},
        {with(kExperts, 0u), "x.evl0: numExperts is 0"},
        {with(kTopK, 0u), "x.evl0: topK is 0"},
        {with(kTopK, 4u), "x.evl0: topK is 4; it must be at most numExperts, which is 3"},
        {with(kVocab, 6u), "vocabSize 6, dModel 4"},
        {with(kLayers, 0x7fffffffu), "x.evl0: numLayers is 2147483647 and numExperts 3, which makes more than"},
        {header(0xffffffffu), "x.evl0: vocabSize is 4294967295 and dModel 4294967295"},
        {header(0x10000u), "x.evl0: vocabSize is 65536 and dModel 65536"},
        {cut(good(), size - 1), "with the trailer"},
        {cut(good(), size - 8), "; the trailer with the CRC-32 is missing"},
        {no_trailer_magic, told + "1 (float32) make exactly " + std::to_string(size)},
        {longer, "length is " + std::to_string(size + 8) + " bytes"},
        {wrong_crc, "x.evl0: the CRC-32 in the trailer is"},
        {damaged, "the file is damaged"},
    };
    for (const auto& [bytes, sentence] : rows) {
        CAPTURE(sentence);
        CHECK_THAT(errorOf(bytes), ContainsSubstring(sentence));
    }
}

TEST_CASE("every truncated EVL0 file and every flipped bit is refused", "[formats][evl0][hostile]") {
    for (const bool fp16 : {false, true}) {
        const Bytes whole = good(fp16);
        for (size_t length = 0; length < whole.size(); ++length) {
            CAPTURE(fp16, length);
            CHECK(errorOf(cut(whole, length)).starts_with("x.evl0: "));
            if (const auto compat = read(cut(whole, length), {.compat = true}))
                CHECK(!compat.value().warnings.empty());  // ends between numbers, and never without a word
        }
        // A CRC sees every flipped bit; those of the header and the trailer are tried one by one.
        for (size_t bit = 0; bit < whole.size() * 8; bit += bit < 64 * 8 ? 1 : 61) {
            Bytes flipped = whole;
            flipped[bit / 8] ^= std::byte(1 << bit % 8);
            CAPTURE(fp16, bit);
            CHECK(errorOf(flipped) != "no error");
        }
        // With a trailer that fits, a flipped bit of the header is refused by what it says, except in topK.
        for (size_t bit = 0; bit < kTopK * 8; ++bit) {
            Bytes flipped = whole;
            flipped[bit / 8] ^= std::byte(1 << bit % 8);
            CAPTURE(fp16, bit);
            CHECK(errorOf(sealed(std::move(flipped))).starts_with("x.evl0: "));
        }
    }
}

TEST_CASE("compat accepts the EVL0 files that the reference engine accepts", "[formats][evl0]") {
    const Evl0Options compat{.compat = true};
    const auto cold = initialLm(kSmall).value();
    const auto accepted = [&](const Bytes& bytes, const char* warning) {
        CAPTURE(warning);
        const auto model = read(bytes, compat);
        if (!model) FAIL(model.error().detail);
        REQUIRE(model.value().warnings.size() >= 1);
        CHECK_THAT(model.value().warnings.front(), ContainsSubstring(warning));
        return readParameters(model.value()).value();
    };
    const auto parameters = readParameters(read(good()).value()).value();
    const size_t body = good().size() - kTrailerBytes;
    CHECK(read(good(), compat).value().warnings.empty());
    CHECK(accepted(cut(good(), body), "x.evl0: there is no trailer") == parameters);
    CHECK(accepted(with(kVersion, 7u), "x.evl0: version is 7; read as float32") == parameters);
    CHECK(accepted(cut(good(), body + 9), "there is no trailer") == parameters);
    Bytes longer = cut(good(), body + 5);
    appendTrailer(longer);
    CHECK(accepted(longer, "the 5 bytes after the parameters are ignored") == parameters);
    CHECK(accepted(cut(good(true), body), "no trailer").size() == parameters.size());

    const auto completed = accepted(cut(good(), body - 400), "no trailer");
    CHECK(std::equal(completed.begin(), completed.end() - 100, parameters.begin()));
    CHECK(std::equal(completed.end() - 100, completed.end(), cold.end() - 100));
    CHECK_THAT(errorOf(cut(good(), body - 2), compat), ContainsSubstring("end within a number"));
    CHECK_THAT(errorOf(cut(good(), body - 400), {true, 399}), ContainsSubstring("at most 399 missing bytes"));
    CHECK_THAT(errorOf(cut(good(true), 100), compat), ContainsSubstring("float16"));

    Bytes wrong = good();
    wrong[50] ^= std::byte{1};
    CHECK_THAT(errorOf(wrong, compat), ContainsSubstring("the CRC-32 in the trailer"));
}

TEST_CASE("numbers that cannot be computed with are refused in language models", "[formats][evl0][hostile]") {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const size_t row = 36 + 4 * (2 * 4 + 1);  // of the embedding: row 2, column 1
    for (const float strange : {kInfinity, -kInfinity, NAN, 0x1p63f, -0x1p100f})
        CHECK_THAT(parameterError(with(row, strange)),
                   ContainsSubstring("x.evl0: token_embedding.weight holds 1 values that are not finite or not below "
                                     "2^63 in size, the first at row 2, column 1"));
    CHECK(parameterError(with(row, 0x1p62f)) == "no error");
    for (const uint16_t strange : {0x7c00, 0xfc00, 0x7e00, 0xfe01})
        CHECK_THAT(parameterError(with(36 + 2 * (5 * 4 + 3), strange, good(true))),
                   ContainsSubstring("layers.0.conv.weight holds 1 values"));

    auto parameters = initialLm(kSmall).value();
    parameters[21] = 65536;
    CHECK(writeEvl0(kSmall, parameters));
    const auto written = writeEvl0(kSmall, parameters, true);
    REQUIRE(!written);
    CHECK(written.error().detail ==
          "layers.0.conv.weight holds 65536 at element 1, which a file of float16 cannot keep");
    parameters[21] = NAN;
    CHECK(!writeEvl0(kSmall, parameters));
    parameters[21] = 65535;
    CHECK(writeEvl0(kSmall, parameters, true));
    parameters.pop_back();
    CHECK_THAT(writeEvl0(kSmall, parameters).error().detail, ContainsSubstring("parameters, and"));
}

TEST_CASE("a language model is no layer to run", "[formats][evl0]") {
    const auto model = readModel(memorySource("x.evl0", good()));
    REQUIRE(!model);
    CHECK(model.error().detail == "x.evl0: is a language model, not a layer: vkmoe generate runs it");
}
