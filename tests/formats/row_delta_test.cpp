// EVD0 files: deltas of arrays, checkpoints and files, and malformed ones.
#include "engine/formats/row_delta.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/formats/crc_trailer.h"
#include "engine/formats/evl0.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;

namespace {

using Bytes = std::vector<std::byte>;

RowDelta twoRows() { return {.row_size = 3, .rows = {1, 4}, .values = {1, 2, 3, 4, 5, 6}}; }

Bytes with(size_t offset, uint32_t number, Bytes bytes = writeRowDelta(twoRows())) {
    std::memcpy(&bytes.at(offset), &number, sizeof number);
    bytes.resize(bytes.size() - kTrailerBytes);
    appendTrailer(bytes);
    return bytes;
}

Bytes cut(Bytes bytes, size_t length) {
    bytes.resize(length);
    return bytes;
}

Result<RowDelta> read(const Bytes& bytes, bool compat = false) {
    return readRowDelta(*memorySource("x.evd0", Bytes(bytes)), compat);
}

std::string errorOf(const Bytes& bytes, bool compat = false) {
    const auto delta = read(bytes, compat);
    return delta ? "no error" : delta.error().detail;
}

template <class Value>
std::string sentence(const Result<Value>& result) {
    return result ? "no error" : result.error().detail;
}

std::shared_ptr<const ByteSource> file(const Bytes& bytes) { return memorySource("a.evl0", Bytes(bytes)); }

}  // namespace

TEST_CASE("a delta turns one array into another, whatever they hold", "[formats][delta]") {
    constexpr uint32_t kSeed = 20260714;
    CAPTURE(kSeed);
    std::mt19937 random(kSeed);
    const uint32_t strange[] = {0, 0x80000000, 0x7f800000, 0xffc00001, 1, 0x3f800000};
    for (const uint32_t row_size : {1u, 2u, 31u, 32u, 33u, 257u}) {
        for (const uint32_t rows : {0u, 1u, 2u, 13u}) {
            CAPTURE(row_size, rows);
            std::vector<float> base(row_size * rows), current;
            for (float& value : base) std::memcpy(&value, &strange[random() % std::size(strange)], sizeof value);
            current = base;
            for (float& value : current)
                if (random() % (2 * row_size) == 0)
                    value = std::bit_cast<float>(strange[random() % std::size(strange)]);
            const auto delta = computeRowDelta(base, current, row_size, {.by_bits = true});
            REQUIRE(delta);
            const auto again = read(writeRowDelta(delta.value()));
            REQUIRE(again);
            CHECK(again.value().rows == delta.value().rows);
            const auto applied = applyRowDelta(base, again.value());
            REQUIRE(applied);
            REQUIRE(applied.value().size() == current.size());
            CHECK((current.empty() || std::memcmp(applied.value().data(), current.data(), 4 * current.size()) == 0));
        }
    }
}

TEST_CASE("small changes are left out of a delta if asked for", "[formats][delta]") {
    const std::vector<float> base = {0, 0, 0, 0}, current = {0.25f, 0, -0.5f, 0.75f};
    const auto rows = [&](double epsilon) {
        return computeRowDelta(base, current, 1, {.epsilon = epsilon}).value().rows;
    };
    CHECK(rows(0) == std::vector<uint32_t>{0, 2, 3});
    CHECK(rows(0.25) == std::vector<uint32_t>{2, 3});
    CHECK(rows(1) == std::vector<uint32_t>{});
    const std::vector<float> zero = {0.0f}, minus_zero = {-0.0f};
    CHECK(computeRowDelta(zero, minus_zero, 1).value().rows.empty());
    CHECK(computeRowDelta(zero, minus_zero, 1, {.by_bits = true}).value().rows.size() == 1);
}

TEST_CASE("deltas that fit nothing are refused with the sizes", "[formats][delta][hostile]") {
    const std::vector<float> base(24), shorter(23);
    CHECK(sentence(computeRowDelta(base, shorter, 1)) ==
          "the base has 24 numbers, and the other 23; a delta is of two alike");
    CHECK(sentence(computeRowDelta(base, base, 5)) == "rowSize is 5, which must divide 24 numbers");
    CHECK(sentence(computeRowDelta(base, base, 0)) == "rowSize is 0, which must divide 24 numbers");
    CHECK(sentence(applyRowDelta(base, {4, {9}, {1, 2, 3, 4}})) ==
          "row 9 of the delta is beyond the base's 6 rows of 4 numbers");
    CHECK(sentence(applyRowDelta(base, {4, {UINT32_MAX}, {1, 2, 3, 4}})).starts_with("row 4294967295"));
    CHECK(sentence(applyRowDelta({}, {4, {0}, {1, 2, 3, 4}})).starts_with("row 0 of the delta is beyond"));
    CHECK(sentence(applyRowDelta(base, {5, {}, {}})) == "rowSize is 5, which must divide 24 numbers");
    CHECK_THAT(sentence(computeLmDelta({5, 4, 2, 3, 6, 3, 2}, base, base)),
               ContainsSubstring("the base has 24 parameters, and the model"));
}

TEST_CASE("malformed EVD0 files are refused with a reason", "[formats][delta][hostile]") {
    const Bytes whole = writeRowDelta(twoRows());
    REQUIRE(whole.size() == 16 + 4 * 2 + 4 * 6 + 8);
    Bytes damaged = whole;
    damaged[30] ^= std::byte{1};
    const std::pair<Bytes, const char*> rows[] = {
        {{}, "x.evd0: length is 0 bytes; the header of an EVD0 file has 16"},
        {cut(whole, 15), "x.evd0: length is 15 bytes"},
        {with(0, 0x45564430), "x.evd0: magic is 0x45564430; EVD0 files start with 0x30445645"},
        {with(4, 2), "x.evd0: version is 2; EVD0 files have version 1"},
        {with(8, 0), "x.evd0: rowSize is 0"},
        {with(8, 2), "length is 56 bytes; nRows 2 of rowSize 2 make exactly 48 with the trailer"},
        {with(12, 3), "length is 56 bytes; nRows 3 of rowSize 3 make exactly 72"},
        {with(12, UINT32_MAX), "nRows 4294967295 of rowSize 3 make exactly 68719476744"},
        {with(8, UINT32_MAX, with(12, UINT32_MAX)), "make more than 64 bits can count with the trailer"},
        {with(20, 1), "x.evd0: row 1 comes after row 1; rows are in ascending order"},
        {with(20, 0), "x.evd0: row 0 comes after row 1"},
        {cut(whole, 48), "length is 48 bytes"},
        {damaged, "x.evd0: the CRC-32 in the trailer is"},
    };
    for (const auto& [bytes, reason] : rows) {
        CAPTURE(reason);
        CHECK_THAT(errorOf(bytes), ContainsSubstring(reason));
    }
    for (size_t length = 0; length < whole.size(); ++length) CHECK(errorOf(cut(whole, length)) != "no error");
    for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
        Bytes flipped = whole;
        flipped[bit / 8] ^= std::byte(1 << bit % 8);
        CAPTURE(bit);
        CHECK(errorOf(flipped) != "no error");
    }
    CHECK(errorOf(cut(whole, 48), true) == "no error");
    CHECK(errorOf(with(4, 2), true) == "no error");
    CHECK(errorOf(with(20, 0), true) == "no error");
    CHECK(errorOf(cut(whole, 47), true) != "no error");
    CHECK(errorOf(damaged, true) != "no error");
}

TEST_CASE("files that are not alike have no delta", "[formats][delta][hostile]") {
    Bytes plain(24), longer(28), odd(25), sealed(24);
    appendTrailer(sealed);
    CHECK(computeFileDelta(*file(plain), *file(sealed)).value().rows.empty());
    CHECK_THAT(sentence(computeFileDelta(*file(plain), *file(longer))),
               ContainsSubstring("a.evl0: the base has 6 numbers, and the other 7"));
    CHECK_THAT(sentence(computeFileDelta(*file(odd), *file(odd))),
               ContainsSubstring("a.evl0: it has 25 bytes before its trailer, which are no multiple of 4"));
    Bytes damaged = sealed;
    damaged[3] ^= std::byte{1};
    CHECK_THAT(sentence(computeFileDelta(*file(damaged), *file(sealed))), ContainsSubstring("a.evl0: the CRC-32"));
    CHECK_THAT(sentence(computeFileDelta(*file(sealed), *file(damaged))), ContainsSubstring("a.evl0: the CRC-32"));
    CHECK_THAT(sentence(applyFileDelta(*file(damaged), {})), ContainsSubstring("a.evl0: the CRC-32"));
    CHECK_THAT(sentence(applyFileDelta(*file(sealed), {1, {6}, {0}})), ContainsSubstring("a.evl0: row 6 of the delta"));
    CHECK((applyFileDelta(*file(plain), {}).value() == sealed));
}
