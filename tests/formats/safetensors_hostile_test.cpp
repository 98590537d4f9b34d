// Malformed safetensors headers: each is refused with a sentence that names the file, the tensor and the number, before
// anything of the claimed size is allocated.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>

#include "engine/formats/safetensors.h"
#include "tests/formats/layer_builder.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;
using test::Bytes;
using test::safetensors;

namespace {

// N, and what follows it.
Bytes sized(uint64_t length, const std::string& rest) {
    Bytes bytes = safetensors(rest);
    std::memcpy(bytes.data(), &length, 8);
    return bytes;
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
    return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

// One tensor, a, of a header.
Bytes one(const std::string& dtype, const std::string& shape, const std::string& offsets, size_t data) {
    return safetensors("{" + tensor("a", dtype, shape, offsets) + "}", data);
}
Bytes two(const std::string& first, const std::string& second, size_t data) {
    return safetensors("{" + tensor("a", "U8", "[4]", first) + "," + tensor("b", "U8", "[4]", second) + "}", data);
}

Bytes good() {
    return safetensors(R"({"__metadata__":{"vkmoe.moe":"{}"},)" + tensor("a", "F32", "[2,2]", "[0,16]") + "," +
                           tensor("b", "U8", "[]", "[16,17]") + "," + tensor("c", "F16", "[0,7]", "[17,17]") + "}",
                       17);
}

std::string errorOf(const Bytes& bytes) {
    const auto header = SafetensorsHeader::read(*memorySource("x.safetensors", Bytes(bytes)));
    if (header) return "no error";
    CHECK(header.error().code == ErrorCode::bad_input);
    return header.error().detail;
}

}  // namespace

TEST_CASE("malformed safetensors headers are refused with a reason", "[formats][safetensors][hostile]") {
    struct Row {
        const char* what;
        Bytes bytes;
        const char* sentence;  // what the error contains
    };
    const std::string deep(100000, '[');
    const Row rows[] = {
        {"1 empty", {}, "x.safetensors: is empty"},
        {"2 7 bytes", Bytes(7), "the header length has 8 bytes at offset 0, but the length is 7"},
        {"3 header length 0", Bytes(8), "the header length is 0, must be at least 2"},
        {"4 header length 100,000,001", sized(100'000'001, "{}"), "the header length is 100000001, at most 100000000"},
        {"5 header length 2^63", sized(uint64_t{1} << 63, "{}"), "the header length is 9223372036854775808, at most"},
        {"6 header length 2^64-1", sized(UINT64_MAX, "{}"), "the header length is 18446744073709551615, at most"},
        {"7 header longer than the file", sized(3, "{}"), "the header length is 3, but 2 bytes follow"},
        {"8 not UTF-8", safetensors("{\"\xff\":1}"), "the header is not UTF-8 at its byte 3"},
        {"8 a lone surrogate", safetensors("{\"\xed\xa0\x80\":1}"), "the header is not UTF-8"},
        {"9 no JSON", safetensors("{dtype}"), "the header is no valid JSON at its byte 2"},
        {"9 an unfinished object", safetensors("{\"a\":"), "the header is no valid JSON at its byte"},
        {"9 a zero byte", safetensors(std::string("{}\0 ", 4)), "a zero byte is in JSON, its byte 3"},
        {"9 a zero byte far inside", safetensors("{" + std::string(70000, ' ') + std::string(1, '\0') + "}"),
         "a zero byte is in JSON, its byte 70002"},
        {"9 a zero byte inside", safetensors(std::string("{\"a\0\":1}", 8)), "a zero byte is in JSON, its byte 4"},
        {"10 an array", safetensors("[]"), "the header starts with byte 91"},
        {"11 a space first", safetensors(" {}"), "the header starts with byte 32, must start with 123"},
        {"12 garbage behind", safetensors("{} x"), "the header is no valid JSON at its byte 4"},
        {"12 a second object", safetensors("{}{}"), "the header is no valid JSON at its byte 3"},
        {"12 garbage far behind", safetensors("{}" + std::string(5000, ' ') + "x"),
         "the header is no valid JSON at its byte 5003"},
        {"12 garbage between long spaces",
         safetensors("{" + std::string(70000, '\n') + "\"a\"" + std::string(200000, ' ') + "!"),
         "the header is no valid JSON at its byte 270005"},
        {"13 100,000 levels", safetensors("{\"a\":{\"shape\":" + deep), "tensor a: shape holds an array"},
        {"13 100,000 levels of objects", safetensors("{\"a\":{\"b\":" + deep), "tensor a has a field b"},
        {"14 a tensor twice",
         safetensors("{" + tensor("a", "U8", "[0]", "[0,0]") + "," + tensor("a", "U8", "[0]", "[0,0]") + "}"),
         "tensor a is there twice"},
        {"15 dtype twice", safetensors(R"({"a":{"dtype":"U8","dtype":"U8"}})"), "tensor a has dtype twice"},
        {"15 no dtype", safetensors(R"({"a":{"shape":[0],"data_offsets":[0,0]}})"), "tensor a has no dtype"},
        {"15 no shape", safetensors(R"({"a":{"dtype":"U8","data_offsets":[0,0]}})"), "tensor a has no shape"},
        {"15 no offsets", safetensors(R"({"a":{"dtype":"U8","shape":[0]}})"), "tensor a has no data_offsets"},
        {"15 another field", safetensors(R"({"a":{"dtype":"U8","size":0}})"),
         "tensor a has a field size, which is unk"},
        {"15 a number for a tensor", safetensors(R"({"a":7})"), "tensor a is 7, must be an object"},
        {"15 a number for a dtype", safetensors(R"({"a":{"dtype":7}})"), "tensor a: dtype holds 7"},
        {"15 an array for a dtype", safetensors(R"({"a":{"dtype":["U8"]}})"), "tensor a: dtype holds an array"},
        {"15 a number for a shape", safetensors(R"({"a":{"shape":7}})"), "tensor a: shape holds 7"},
        {"15 an object for a shape", safetensors(R"({"a":{"shape":{}}})"), "tensor a: shape holds an object"},
        {"16 metadata of numbers", safetensors(R"({"__metadata__":{"k":1}})"), "__metadata__ k is 1, must be a string"},
        {"16 metadata of null", safetensors(R"({"__metadata__":{"k":null}})"), "__metadata__ k is null, must be"},
        {"16 metadata of arrays", safetensors(R"({"__metadata__":{"k":[]}})"), "__metadata__ k is an array, must be"},
        {"16 metadata of objects", safetensors(R"({"__metadata__":{"k":{}}})"), "__metadata__ k is an object, must be"},
        {"16 metadata is a string", safetensors(R"({"__metadata__":"x"})"), "__metadata__ is \"x\", must be an object"},
        {"17 metadata twice", safetensors(R"({"__metadata__":{},"__metadata__":{}})"), "__metadata__ is there twice"},
        {"17 a key twice", safetensors(R"({"__metadata__":{"k":"","k":""}})"), "__metadata__ k is there twice"},
        {"18 an endless dtype", one(std::string(33, 'F'), "[1]", "[0,1]", 1), "tensor a has the unknown dtype FFFFF"},
        {"19 a negative dimension", one("U8", "[-1]", "[0,0]", 0), "tensor a: shape holds -1"},
        {"19 minus zero", one("U8", "[-0]", "[0,0]", 0), "tensor a: shape holds -0"},
        {"20 1.5", one("U8", "[1.5]", "[0,1]", 1), "tensor a: shape holds 1.5"},
        {"20 1e3", one("U8", "[1e3]", "[0,1000]", 1000), "tensor a: shape holds 1e3"},
        {"20 a string", one("U8", "[\"4\"]", "[0,4]", 4), "tensor a: shape holds \"4\""},
        {"20 true", one("U8", "[true]", "[0,1]", 1), "tensor a: shape holds true"},
        {"20 2^64", one("U8", "[18446744073709551616]", "[0,1]", 1), "tensor a: shape holds 18446744073709551616"},
        {"21 the product of a shape wraps to 0", one("U8", "[4294967296,4294967296]", "[0,0]", 0),
         "tensor a has shape [4294967296, 4294967296], more bits than 64 bits can count"},
        {"21 a zero behind does not heal it", one("U8", "[4294967296,4294967296,0]", "[0,0]", 0), "more bits than 64"},
        {"22 product times bits wraps to 0", one("F32", "[576460752303423488]", "[0,0]", 0), "more bits than 64"},
        {"22 bits that fill no byte", one("F4", "[3]", "[0,1]", 1), "tensor a is F4 [3] and so has 12 bits"},
        {"22 seven dimensions", one("U8", "[1,1,1,1,1,1,1]", "[0,1]", 1), "tensor a has more than 6 dimensions"},
        {"22 fewer bytes than the shape says", one("F32", "[2]", "[0,4]", 4), "tensor a is F32 [2] and so has 64 bits"},
        {"23 offsets reversed", one("U8", "[4]", "[4,0]", 4), "tensor a has data_offsets [4, 0], which are not in ord"},
        {"23 offsets beyond the data", one("U8", "[5]", "[0,5]", 4), "tensor a has data_offsets [0, 5], which are not"},
        {"23 one offset", one("U8", "[0]", "[0]", 0), "tensor a has 1 data_offsets, must have 2"},
        {"23 three offsets", one("U8", "[0]", "[0,0,0]", 0), "tensor a has more than 2 data_offsets"},
        {"23 a negative offset", one("U8", "[1]", "[-1,0]", 1), "tensor a: data_offsets holds -1"},
        {"24 overlap", two("[0,4]", "[2,6]", 6), "tensor b starts at byte 2 of the data, must start where the one"},
        {"24 the same bytes", two("[0,4]", "[0,4]", 4), "starts at byte 0 of the data, must start where the one befo"},
        {"25 a hole", two("[0,4]", "[5,9]", 9), "tensor b starts at byte 5 of the data, must start where the one b"},
        {"26 the first not at 0", one("U8", "[3]", "[1,4]", 4), "tensor a starts at byte 1 of the data, must start"},
        {"27 slack behind", one("U8", "[3]", "[0,3]", 4), "the tensors have 3 bytes, the data 4"},
        {"27 data without tensors", safetensors("{}", 1), "the tensors have 0 bytes, the data 1"},
        {"28 an empty tensor inside another",
         safetensors("{" + tensor("a", "U8", "[4]", "[0,4]") + "," + tensor("b", "U8", "[0]", "[2,2]") + "}", 4),
         "tensor b starts at byte 2 of the data"},
        {"29 2^53+1", one("U8", "[9007199254740993]", "[0,9007199254740993]", 1),
         "tensor a has data_offsets [0, 9007199254740993], which are not in order within 1 bytes of data"},
        {"29 2^53+1 in a shape", one("U8", "[9007199254740993]", "[0,1]", 1), "has 72057594037927944 bits"},
        {"30 a name of 1 MB", safetensors("{\"" + std::string(1'000'000, 'n') + "\":{}}"),
         "has a name of 1000000 byte"},
        {"30 a name of 257 bytes", safetensors("{\"" + std::string(257, 'n') + "\":{}}"), "has a name of 257 bytes"},
        {"30 an endless string", safetensors("{\"__metadata__\":{\"k\":\"" + std::string(5'000'000, 's') + "\"}}"),
         "a string in JSON has more than 4194304 bytes"},
        {"30 an endless number", safetensors("{\"a\":" + std::string(1000, '1') + "}"), "a number in JSON has more"},
    };
    for (const Row& row : rows) {
        CAPTURE(row.what);
        CHECK_THAT(errorOf(row.bytes), ContainsSubstring(row.sentence));
        CHECK_THAT(errorOf(row.bytes), ContainsSubstring("x.safetensors: "));
        CHECK(errorOf(row.bytes).find('\n') == std::string::npos);
    }
}

TEST_CASE("control characters of names stay out of sentences", "[formats][safetensors][hostile]") {
    CHECK(errorOf(safetensors(R"({"a\n\u0007\u007f":7})")) ==
          "x.safetensors: tensor a\\x0a\\x07\\x7f is 7, must be an object");
}

TEST_CASE("what only looks strange is read", "[formats][safetensors]") {
    const auto read = [](const Bytes& bytes) {
        auto header = SafetensorsHeader::read(*memorySource("x.safetensors", Bytes(bytes)));
        REQUIRE(header);
        return std::move(*header);
    };
    CHECK(read(safetensors("{}")).size() == 0);
    CHECK(read(safetensors("{}      ")).size() == 0);
    // 18: an unknown dtype matters to those who need the tensor; its shape then says nothing of its bytes.
    CHECK(read(one("F3", "[77]", "[0,5]", 5)).at(0).dtype == "F3");
    // 28: empty tensors may share an offset, at the ends and between others.
    CHECK(read(safetensors("{" + tensor("a", "U8", "[4]", "[0,4]") + "," + tensor("b", "U8", "[0]", "[4,4]") + "," +
                               tensor("c", "U8", "[0]", "[0,0]") + "," + tensor("d", "F32", "[9,0]", "[4,4]") + "}",
                           4))
              .size() == 4);
    // 30: a name is a key, never a path.
    CHECK(read(safetensors("{" + tensor("../../x", "U8", "[0]", "[0,0]") + "}")).at(0).name == "../../x");
    CHECK(read(safetensors("{" + tensor(std::string(256, 'n'), "U8", "[0]", "[0,0]") + "}")).size() == 1);
    CHECK(read(two("[4,8]", "[0,4]", 8)).at(0).offset == read(two("[4,8]", "[0,4]", 8)).at(1).offset + 4);
}

TEST_CASE("30 a million empty tensors, and one more than there may be", "[formats][safetensors][hostile][large]") {
    const auto many = [](size_t count) {
        std::string header = "{";
        for (size_t i = 0; i < count; ++i)
            header += (i == 0 ? "" : ",") + tensor(std::to_string(i), "U8", "[0]", "[0,0]");
        return safetensors(header + "}");
    };
    const auto header = SafetensorsHeader::read(*memorySource("x.safetensors", many(1'000'000)));
    REQUIRE(header);
    CHECK(header.value().size() == 1'000'000);
    CHECK(header.value().find("777777") == 777'777);
    CHECK_FALSE(header.value().find("1000000"));
    CHECK(errorOf(many(1'048'577)) == "x.safetensors: there are more than 1048576 tensors");
}

TEST_CASE("every prefix of a safetensors file is refused", "[formats][safetensors][hostile]") {
    const Bytes whole = good();
    REQUIRE(errorOf(whole) == "no error");
    for (size_t length = 0; length < whole.size(); ++length) {
        CAPTURE(length);
        REQUIRE_THAT(errorOf({whole.begin(), whole.begin() + ptrdiff_t(length)}), ContainsSubstring("x.safetensors: "));
    }
}

TEST_CASE("every flipped bit of a safetensors header gives an error or sound tensors",
          "[formats][safetensors][hostile]") {
    const Bytes whole = good();
    for (size_t bit = 0; bit < (whole.size() - 17) * 8; ++bit) {
        CAPTURE(bit);
        Bytes bytes = whole;
        bytes[bit / 8] ^= std::byte(1 << bit % 8);
        const auto file = memorySource("x.safetensors", bytes);
        const auto header = SafetensorsHeader::read(*file);
        if (!header) REQUIRE_THAT(header.error().detail, ContainsSubstring("x.safetensors: "));
        for (size_t i = 0; header && i < header.value().size(); ++i) {
            const SafetensorsTensor tensor = header.value().at(i);
            Bytes into(tensor.bytes);
            REQUIRE(file->read(tensor.offset, into));
        }
    }
}
