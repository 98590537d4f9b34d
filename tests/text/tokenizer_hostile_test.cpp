// Malformed tokenizer files: each is refused with a sentence that names the file, the field and the number.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "tests/text/random_text.h"
#include "vkmoe/text_codec.h"

using namespace vkmoe;
using Catch::Matchers::ContainsSubstring;

namespace {

std::string model(const std::string& vocab, const std::string& merges) {
    return R"({"version":"1.0","model":{"type":"BPE","vocab":)" + vocab + R"(,"merges":)" + merges + "}}";
}

std::string repeated(const std::string& piece, size_t count) {
    std::string text;
    while (count-- > 0) text += piece;
    return text;
}

std::string errorOf(const std::string& text) {
    const auto codec = BpeCodec::parse("t.json", text);
    if (codec) return "no error";
    CHECK(codec.error().code == ErrorCode::bad_input);
    CHECK(codec.error().detail.find('\n') == std::string::npos);
    return codec.error().detail;
}

constexpr const char* kVocab = R"({"a":0,"b":1,"ab":2})";

}  // namespace

TEST_CASE("malformed tokenizers are refused with a reason", "[text][hostile]") {
    struct Row {
        std::string text;
        const char* sentence;  // what the error contains
    };
    const Row rows[] = {
        {"", "t.json: is empty"},
        {"{", "t.json: the tokenizer is no valid JSON at its byte 2"},
        {"[]", "the tokenizer is an array, must be an object"},
        {"7", "the tokenizer is 7, must be an object"},
        {"{}", "t.json: the tokenizer has no model.vocab"},
        {R"({"model":{"vocab":{}}})", "the tokenizer has no model.merges"},
        {R"({"model":{"merges":[]}})", "the tokenizer has no model.vocab"},
        {R"({"model":null})", "model is null, must be an object"},
        {R"({"model":[]})", "model is an array, must be an object"},
        {R"({"model":{},"model":{}})", "the tokenizer has model twice"},
        {R"({"vocab":{},"model":{"vocab":{}}})", "the tokenizer has vocab twice"},
        {R"({"merges":[],"merges":[]})", "the tokenizer has merges twice"},
        {model("[]", "[]"), "vocab is an array, must be an object"},
        {model("5", "[]"), "vocab is 5, must be an object"},
        {model(kVocab, "{}"), "merges is an object, must be an array"},
        {model(kVocab, "\"a b\""), "merges is \"a b\", must be an array"},
        {model(R"({"a":"0"})", "[]"), "vocab \"a\" is \"0\", must be an id below 1048576"},
        {model(R"({"a":-1})", "[]"), "vocab \"a\" is -1, must be an id below 1048576"},
        {model(R"({"a":1.5})", "[]"), "vocab \"a\" is 1.5, must be an id"},
        {model(R"({"a":1e3})", "[]"), "vocab \"a\" is 1e3, must be an id"},
        {model(R"({"a":1048576})", "[]"), "vocab \"a\" is 1048576, must be an id below 1048576"},
        {model(R"({"a":18446744073709551616})", "[]"), "vocab \"a\" is 18446744073709551616, must be an id"},
        {model(R"({"a":null})", "[]"), "vocab \"a\" is null, must be an id"},
        {model(R"({"a":{}})", "[]"), "vocab \"a\" is an object, must be an id"},
        {model(R"({"a":[0]})", "[]"), "vocab \"a\" is an array, must be an id"},
        {model(R"({"a":0,"b":0})", "[]"), "vocab has the id 0 twice: \"a\" and \"b\""},
        {model(R"({"a":0,"a":3})", "[]"), "vocab has \"a\" twice: ids 0 and 3"},
        {model(R"({"a\n":0,"a\n":3})", "[]"), "vocab has \"a\\x0a\" twice"},
        {model(kVocab, "[\"a b\",7]"), "merges[1] is 7, must be two tokens"},
        {model(kVocab, "[null]"), "merges[0] is null, must be two tokens"},
        {model(kVocab, "[\"ab\"]"), "merges[0] is \"ab\", must be two tokens"},
        {model(kVocab, "[\"\"]"), "merges[0] is \"\", must be two tokens"},
        {model(kVocab, "[\" b\"]"), "merges[0] is \" b\", must be two tokens"},
        {model(kVocab, "[\"a \"]"), "merges[0] is \"a \", must be two tokens"},
        {model(kVocab, "[\"a b a\"]"), "merges[0] is \"a b a\", must be two tokens"},
        {model(kVocab, "[{}]"), "merges[0] is an object, must be two tokens"},
        {model(kVocab, "[[]]"), "merges[0] is an array of 0, must be two tokens"},
        {model(kVocab, "[[\"a\"]]"), "merges[0] is an array of 1, must be two tokens"},
        {model(kVocab, "[[\"a\",\"b\",\"c\"]]"), "merges[0] is an array of more than 2 tokens"},
        {model(kVocab, "[[\"a\",1]]"), "merges[0] is an array with 1, must be two tokens"},
        {model(kVocab, "[[\"a\",[]]]"), "merges[0] is an array, must be two tokens"},
        {model(kVocab, "[[\"a\",\"\"]]"), "t.json: merges[0] has an empty half"},
        {model(kVocab, "[\"a b\",\"ab zz\"]"), "merges[1] joins \"zz\", which is no token and no earlier merge"},
        {model(kVocab, "[\"abb a\",\"ab b\"]"), "merges[0] joins \"abb\", which is no token"},
        {model("{\"\xff\":0}", "[]"), "the tokenizer is not UTF-8"},
        {model(R"({"\ud83d":0})", "[]"), "the tokenizer is no valid JSON"},
        {model(kVocab, "[]") + "x", "the tokenizer is no valid JSON"},
        {repeated("[", 100000), "the tokenizer is an array"},
        {R"({"x":)" + repeated("[", 100000), "the tokenizer has more than 64 levels"},
        {R"({"x":)" + repeated(R"({"x":)", 100000), "the tokenizer has more than 64 levels"},
        {R"({"model":{"vocab":{")" + std::string(5 << 20, 'a') + R"(":0}}})", "a string in JSON has more than"},
    };
    for (const Row& row : rows) {
        INFO(row.text.substr(0, 200));
        CHECK_THAT(errorOf(row.text), ContainsSubstring(row.sentence));
        CHECK_THAT(errorOf(row.text), ContainsSubstring("t.json: "));
    }
}

TEST_CASE("more merges than are read are refused", "[text][hostile]") {
    std::string merges = "[\"a b\"";
    for (uint32_t i = 0; i < BpeCodec::kMaxIds; ++i) merges += ",\"a b\"";
    CHECK(errorOf(model(kVocab, merges + "]")) == "t.json: merges has more than 1048576 entries");
}

TEST_CASE("unusual tokenizers are read", "[text][hostile]") {
    CHECK(errorOf(model("{}", "[]")) == "no error");
    CHECK(errorOf(model(R"({"":0})", "[]")) == "no error");
    CHECK(errorOf(R"({"vocab":{"a":0},"merges":[["a","b"],["ab","c"]]})") == "no error");
    CHECK(
        errorOf(
            R"({"added_tokens":[{"x":[[[[1]]]]}],"model":{"vocab":{"x y":1048575},"merges":[["x y","a"]],"z":{"vocab":1}}})") ==
        "no error");
    const auto empty = BpeCodec::parse("t.json", model("{}", "[]"));
    REQUIRE(empty);
    CHECK(empty.value().encode("text", true, true).empty());
    CHECK(empty.value().idLimit() == 0);
    // Of a merge that is there twice the later rank counts: b c is stronger.
    const auto twice =
        BpeCodec::parse("t.json", model(R"({"a":0,"b":1,"c":2,"ab":3,"bc":4})", R"(["a b","b c","a b"])"));
    REQUIRE(twice);
    CHECK(twice.value().encode("abc") == std::vector<uint32_t>{0, 4});
}

TEST_CASE("every beginning of a tokenizer is refused", "[text][hostile]") {
    const std::string whole = model(R"({"a":0,"b":1,"ab":2})", R"(["a b",["a","ab"]])");
    REQUIRE(errorOf(whole) == "no error");
    for (size_t size = 0; size < whole.size(); ++size) {
        CAPTURE(size);
        CHECK_THAT(errorOf(whole.substr(0, size)), ContainsSubstring("t.json: "));
    }
}

TEST_CASE("damaged tokenizers are refused or work", "[text][hostile]") {
    const std::string whole =
        BpeCodec::train("the then the \u4e16\u4e16", {.merges = 6, .min_frequency = 1, .special = {}}).json();
    const std::string tail = whole.substr(whole.find("\"model\""));  // where it matters
    for (uint64_t seed = 0; seed < 400; ++seed) {
        CAPTURE(seed);
        test::RandomText random(seed);
        std::string text = "{" + tail;
        for (uint32_t i = 0; i < 1 + random.below(4); ++i) {
            const size_t at = random.below(text.size());
            const uint32_t how = random.below(4);
            if (how == 0) text[at] = static_cast<char>(text[at] ^ 1 << random.below(8));
            if (how == 1) text.erase(at, 1 + random.below(20));
            if (how == 2) text.insert(at, text.substr(random.below(text.size()), random.below(30)));
            if (how == 3) text[at] = "\"{}[]:, 09\\"[random.below(11)];
        }
        const auto codec = BpeCodec::parse("t.json", text);
        if (!codec) {
            CHECK_THAT(codec.error().detail, ContainsSubstring("t.json: "));
            continue;
        }
        const std::string sample = random.utf8(20) + random.bytes(20);
        const auto ids = codec.value().encode(sample, true, true);
        for (const uint32_t id : ids) CHECK(id < codec.value().idLimit());
        CHECK_FALSE(checkUtf8(codec.value().decode(ids)));
    }
}
