#include "engine/formats/safetensors.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <map>

#include "engine/formats/safetensors_files.h"
#include "tests/formats/layer_builder.h"
#include "tests/formats/test_folder.h"

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;
using test::Bytes;

namespace {

TensorToWrite tensorOf(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape,
                       size_t bytes, int value) {
    return {name, dtype, shape, [=](const ByteSink& put) { return put(Bytes(bytes, std::byte(value))); }};
}

// What opens the files of an index, from memory.
OpenShard inMemory(const std::map<std::string, Bytes>& files) {
    return [files](const std::string& name) -> Result<std::shared_ptr<const ByteSource>> {
        const auto found = files.find(name);
        if (found == files.end()) return Error{ErrorCode::io, name + ": cannot be opened: No such file or directory"};
        return memorySource(name, found->second);
    };
}

Result<SafetensorsFiles> openIndex(const std::string& index, const std::map<std::string, Bytes>& files) {
    return SafetensorsFiles::openIndex(*memorySource("index.json", test::text(index)), inMemory(files));
}

Bytes fileOf(const std::string& tensor, const std::string& metadata = "") {
    const std::string first = metadata.empty() ? "" : R"("__metadata__":{"vkmoe.moe":")" + metadata + R"("},)";
    return test::safetensors("{" + first + "\"" + tensor + R"(":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 3);
}

}  // namespace

TEST_CASE("a safetensors file reads back as it was written, in aligned places", "[formats][safetensors]") {
    test::Folder folder;
    const std::string path = folder / "x.safetensors";
    const TensorToWrite tensors[] = {tensorOf("odd", "U8", {3}, 3, 1),    tensorOf("half", "F16", {3}, 6, 2),
                                     tensorOf("word", "F32", {3}, 12, 3), tensorOf("pair", "F32", {2, 1}, 8, 4),
                                     tensorOf("scalar", "F64", {}, 8, 5), tensorOf("none", "F32", {0, 4}, 0, 6)};
    REQUIRE(writeSafetensors(path, tensors, {{"vkmoe.moe", "{\"k\":1}"}, {"other", "x"}}));
    const auto file = openFile(path);
    REQUIRE(file);
    const auto header = SafetensorsHeader::read(*file.value());
    REQUIRE(header);
    REQUIRE(header.value().size() == std::size(tensors));
    CHECK(header.value().metadata() == std::map<std::string, std::string>{{"vkmoe.moe", "{\"k\":1}"}});
    for (const TensorToWrite& tensor : tensors) {
        CAPTURE(tensor.name);
        const auto at = header.value().find(tensor.name);
        REQUIRE(at);
        const SafetensorsTensor found = header.value().at(*at);
        CHECK(found.dtype == tensor.dtype);
        CHECK(std::vector<uint64_t>(found.shape.begin(), found.shape.end()) == tensor.shape);
        CHECK(found.offset * 8 % safetensorsBits(tensor.dtype) == 0);
        Bytes bytes(found.bytes), given;
        REQUIRE(file.value()->read(found.offset, bytes));
        REQUIRE(tensor.fill([&](std::span<const std::byte> piece) -> Result<void> {
            given.assign(piece.begin(), piece.end());
            return {};
        }));
        CHECK((bytes == given));
    }
    const auto first = header.value().at(0);
    CHECK((first.name == "pair" && first.offset % 8 == 0));
    CHECK_FALSE(header.value().find("nothing"));
}

TEST_CASE("what cannot be written leaves no file", "[formats][safetensors]") {
    test::Folder folder;
    const auto error = [&](const std::vector<TensorToWrite>& tensors) {
        const auto written = writeSafetensors(folder / "x", tensors, {});
        REQUIRE(!written);
        CHECK(folder.empty());
        return written.error().detail;
    };
    const TensorToWrite a = tensorOf("a", "U8", {1}, 1, 0);
    CHECK_THAT(error({a, a}), ContainsSubstring("tensor a cannot be written: the name is taken or too long"));
    CHECK_THAT(error({tensorOf("__metadata__", "U8", {1}, 1, 0)}), ContainsSubstring("the name is taken"));
    CHECK_THAT(error({tensorOf("a", "Q4", {1}, 1, 0)}), ContainsSubstring("tensor a cannot be written as Q4 [1]"));
    CHECK_THAT(error({tensorOf("a", "U8", {2}, 1, 0)}), ContainsSubstring("tensor a has 2 bytes, 1 were given"));
    CHECK_THAT(error({a,
                      {"b",
                       "U8",
                       {1},
                       [](const ByteSink&) {
                           return Error{ErrorCode::io, "no more"};
                       }}}),
               ContainsSubstring("no more"));
}

TEST_CASE("an index joins the tensors of its files", "[formats][safetensors][index]") {
    const std::string index =
        R"({"metadata":{"total_size":6,"by":{"x":[1.5]}},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})";
    auto files = openIndex(index, {{"1.safetensors", fileOf("a", "same")}, {"2.safetensors", fileOf("b", "same")}});
    REQUIRE(files);
    REQUIRE(files->size() == 2);
    CHECK(files->metadata().at("vkmoe.moe") == "same");
    CHECK_FALSE(files->metadata().contains("vkmoe.other"));
    CHECK(files->bytes()->name() == "index.json");
    const SafetensorsTensor b = files->at(1);
    CHECK(b.name == "b");
    CHECK(files->fileOf(1) == "2.safetensors");
    CHECK(files->bytes()->nameAt(b.offset) == "2.safetensors");
    CHECK(files->bytes()->nameAt(0) == "1.safetensors");
    Bytes all(files->bytes()->size()), expected = fileOf("a", "same"), second = fileOf("b", "same");
    expected.insert(expected.end(), second.begin(), second.end());
    REQUIRE(files->bytes()->read(0, all));
    CHECK((all == expected));
    const auto beyond = files->bytes()->read(1, all);
    REQUIRE(!beyond);
    CHECK_THAT(beyond.error().detail, ContainsSubstring("index.json: "));
}

TEST_CASE("a wrong index is refused with a reason", "[formats][safetensors][index][hostile]") {
    const std::map<std::string, Bytes> files = {{"1.safetensors", fileOf("a", "one")},
                                                {"2.safetensors", fileOf("b", "two")},
                                                {"3.safetensors", fileOf("c")},
                                                {"cut.safetensors", Bytes(7)}};
    const auto map = [](const std::string& entries) { return R"({"weight_map":{)" + entries + "}}"; };
    const auto named = [&](const std::string& file) { return map(R"("a":")" + file + R"(")"); };
    const std::string plain = "must be the plain name of a .safetensors file";
    const std::pair<std::string, std::string> rows[] = {
        {"", "index.json: is empty"},
        {"{}", "index.json: the index has no weight_map"},
        {"[]", "index.json: the index is an array, must be an object"},
        {"7", "index.json: the index is 7, must be an object"},
        {"{", "index.json: the index is no valid JSON at its byte"},
        {map(""), "index.json: weight_map is empty"},
        {R"({"weight_map":[]})", "weight_map is an array, must be an object"},
        {R"({"weight_map":7})", "weight_map is 7, must be an object"},
        {R"({"metadata":"x"})", "metadata is \"x\", must be an object"},
        {R"({"weight_map":{},"weight_map":{}})", "the index has weight_map twice"},
        {R"({"weights":{}})", "the index has a field weights, which is unknown"},
        {map(R"("a":7)"), "weight_map a is 7, must be a file name"},
        {map(R"("a":{})"), "weight_map a is an object, must be a file name"},
        {map(R"("a":["x"])"), "weight_map a is an array, must be a file name"},
        {map(R"("a":"1.safetensors","a":"1.safetensors")"), "weight_map has a twice"},
        {R"({"metadata":{"x":[[[]]]}})", "the index has more than 4 levels"},
        {named("../1.safetensors"), plain},
        {named("/etc/1.safetensors"), plain},
        {named("x/1.safetensors"), plain},
        {named("x\\\\1.safetensors"), plain},
        {named("c:1.safetensors"), plain},
        {named(".safetensors"), plain},
        {named("..safetensors"), plain},
        {named(""), plain},
        {named("1.bin"), plain},
        {named("1\\u0000.safetensors"), plain},
        {named("1\\n.safetensors"), plain},
        {named("gone.safetensors"), "gone.safetensors: cannot be opened"},
        {named("cut.safetensors"), "cut.safetensors: the header length has 8 bytes"},
        {named("2.safetensors"), "2.safetensors: tensor b is not in the weight_map of index.json"},
        {map(R"("a":"1.safetensors","d":"1.safetensors")"),
         "1.safetensors: has no tensor d, which the weight_map of index.json has there"},
        {map(R"("a":"3.safetensors","c":"1.safetensors")"),
         "3.safetensors: tensor c is here, but the weight_map of index.json has it in 1.safetensors"},
        {map(R"("a":"1.safetensors","b":"2.safetensors")"),
         "2.safetensors: __metadata__ vkmoe.moe differs from that of 1.safetensors"},
    };
    for (const auto& [index, sentence] : rows) {
        CAPTURE(index);
        const auto opened = openIndex(index, files);
        REQUIRE(!opened);
        CHECK_THAT(opened.error().detail, ContainsSubstring(sentence));
    }
    std::string many;
    for (int i = 0; i <= 1000; ++i)
        many += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":\"" + std::to_string(i) + ".safetensors\"";
    CHECK(openIndex(map(many), files).error().detail == "index.json: weight_map names more than 1000 files");
}

TEST_CASE("every prefix and flipped bit of an index gives an error or its tensors",
          "[formats][safetensors][index][hostile]") {
    const std::map<std::string, Bytes> files = {{"1.safetensors", fileOf("a")}, {"2.safetensors", fileOf("b")}};
    const std::string whole = R"({"metadata":{"total_size":6},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})";
    REQUIRE(openIndex(whole, files));
    for (size_t length = 0; length < whole.size(); ++length) REQUIRE(!openIndex(whole.substr(0, length), files));
    for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
        CAPTURE(bit);
        std::string index = whole;
        index[bit / 8] = char(index[bit / 8] ^ 1 << bit % 8);
        const auto opened = openIndex(index, files);
        if (opened)
            REQUIRE(opened.value().size() == 2);
        else
            REQUIRE(!opened.error().detail.empty());
    }
}
