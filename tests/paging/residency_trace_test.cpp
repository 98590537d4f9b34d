// Trace files: what is written is read again, and what is malformed is refused with a sentence.
#include "engine/formats/residency_trace.h"

#include <catch2/catch_test_macros.hpp>
#include <cstring>

#include "host/zipf_visits.h"
#include "tests/formats/test_folder.h"

using namespace vkmoe;

namespace {

Result<Trace> parse(const std::string& text) {
    std::vector<std::byte> bytes(text.size());
    if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
    return formats::readTrace(*memorySource("t.json", bytes));
}

const std::string kGood = R"({"format":"vkmoe-trace","version":1,"pages":[3,2],"page_bytes":[256,512],)"
                          R"("costs":{"read_bytes_per_second":2e9},"visits":[[0,[2,0]],[1,[1]],[0,[]]]})";

// The good text with a part replaced.
std::string with(const std::string& part, const std::string& other) {
    std::string text = kGood;
    REQUIRE(text.find(part) != std::string::npos);
    return text.replace(text.find(part), part.size(), other);
}

}  // namespace

TEST_CASE("a trace is read as it was written", "[paging]") {
    test::Folder folder;
    ZipfOptions options{.layers = 3, .experts = 11, .top_k = 4, .tokens = 700};
    Trace trace{.pages = {11, 11, 11},
                .page_bytes = {256, 512, uint64_t{1} << 36},
                .costs = {1.23456789e9, 0.1, 3e-5},
                .visits = zipfVisits(options)};
    REQUIRE(formats::writeTrace(folder / "t.json", trace));
    auto file = openFile(folder / "t.json");
    REQUIRE(file);
    auto read = formats::readTrace(**file);
    REQUIRE(read);
    CHECK(read->pages == trace.pages);
    CHECK(read->page_bytes == trace.page_bytes);
    CHECK(read->costs.read_bytes_per_second == trace.costs.read_bytes_per_second);
    CHECK(read->costs.copy_bytes_per_second == trace.costs.copy_bytes_per_second);
    CHECK(read->costs.seconds_per_visit == trace.costs.seconds_per_visit);
    REQUIRE(read->visits.size() == trace.visits.size());
    for (size_t i = 0; i < trace.visits.size(); ++i) {
        CHECK(read->visits[i].group == trace.visits[i].group);
        CHECK(read->visits[i].pages == trace.visits[i].pages);
    }
}

TEST_CASE("numbers of a trace are read", "[paging]") {
    auto trace = parse(kGood);
    REQUIRE(trace);
    CHECK(trace->visits[0].pages == std::vector<PageId>{2, 0});
    CHECK(trace->visits[1].pages == std::vector<PageId>{4});
    CHECK(trace->visits[2].pages.empty());
    CHECK(trace->costs.read_bytes_per_second == 2e9);
    CHECK(trace->costs.seconds_per_visit == 0);
    CHECK(parse(with(R"("costs":{"read_bytes_per_second":2e9},)", "")));
    CHECK(parse(with(R"([[0,[2,0]],[1,[1]],[0,[]]])", "[]")));
}

TEST_CASE("malformed traces are refused", "[paging]") {
    struct Case {
        const char *part, *other, *sentence;
    };
    for (const Case& c : {
             Case{"vkmoe-trace", "trace", "t.json: format is \"trace\", must be \"vkmoe-trace\""},
             Case{"\"version\":1", "\"version\":2", "version is 2, must be 1"},
             Case{"\"version\":1", "\"version\":[1]", "version is or has an array"},
             Case{"\"version\":1", "\"version\":1,\"version\":1", "version is there twice"},
             Case{"\"version\":1,", "", "version is missing"},
             Case{"\"version\":1", "\"version\":1,\"more\":1", "more is unknown"},
             Case{"[3,2]", "3", "pages is or has 3, must be a list of numbers"},
             Case{"[3,2]", "{}", "pages is or has an object"},
             Case{"[3,2]", "[]", "pages is empty"},
             Case{"[3,2]", "[3]", "pages has 1 groups, page_bytes 2"},
             Case{"[3,2]", "[3,0]", "pages 1 is 0, must be 1 to 1048576"},
             Case{"[3,2]", "[3,-2]", "pages 1 is -2, must be"},
             Case{"[3,2]", "[3,2.5]", "pages 1 is 2.5, must be"},
             Case{"[3,2]", "[3,1e3]", "pages 1 is 1e3, must be"},
             Case{"[3,2]", "[3,\"2\"]", "pages 1 is \"2\", must be"},
             Case{"[3,2]", "[3,[2]]", "pages is or has an array"},
             Case{"[3,2]", "[1048576,2]", "pages of all groups are 1048578, must be at most 1048576"},
             Case{"[3,2]", "[3,18446744073709551616]", "pages 1 is 18446744073709551616"},
             Case{"[256,512]", "[256,68719476737]", "page_bytes 1 is 68719476737, must be 1 to 68719476736"},
             Case{"2e9", "-1", "costs.read_bytes_per_second is -1, must be a number of 0 to 1e18"},
             Case{"2e9", "1e19", "costs.read_bytes_per_second is 1e19"},
             Case{"2e9", "null", "costs.read_bytes_per_second is null"},
             Case{"2e9", "{}", "costs is or has an object"},
             Case{"read_bytes_per_second", "speed", "costs.speed is unknown"},
             Case{"2e9", "2e9,\"read_bytes_per_second\":1", "costs.read_bytes_per_second is there twice"},
             Case{"[1,[1]]", "[2,[1]]", "visits 1: group 2 is not one of 0 to 1"},
             Case{"[1,[1]]", "[65536,[1]]", "visits 1: group is 65536, must be 0 to 65535"},
             Case{"[1,[1]]", "[1,[2]]", "visits 1: expert 2 is not one of 0 to 1"},
             Case{"[1,[1]]", "[1,[99999999]]", "visits 1: expert is 99999999, must be 0 to 1048575"},
             Case{"[2,0]", "[2,0,2]", "visits 0: expert 2 is listed twice"},
             Case{"[2,0]", "[2,-1]", "visits 0: expert is -1"},
             Case{"[2,0]", "[2,[0]]", "levels"},
             Case{"[2,0]", "[2,{}]", "levels"},
             Case{"[2,0]", "7", "visits 0: found 7, must be a group and a list"},
             Case{"[1,[1]]", "[[1],1]", "visits 1: found an array"},
             Case{"[1,[1]]", "[1]", "visits 1: must be a group and a list"},
             Case{"[1,[1]]", "[]", "visits 1: must be a group and a list"},
             Case{"[1,[1]]", "[1,[1],[1]]", "visits 1: found an array"},
             Case{"[1,[1]]", "[1,[1],1]", "visits 1: found 1"},
             Case{"[1,[1]]", "{\"group\":1}", "visits is or has an object"},
             Case{"[1,[1]]", "5", "visits is or has 5, must be a list of visits"},
         }) {
        INFO(c.part << " -> " << c.other);
        auto read = parse(with(c.part, c.other));
        REQUIRE(!read);
        CHECK(read.error().code == ErrorCode::bad_input);
        INFO(read.error().detail);
        CHECK(read.error().detail.find(c.sentence) != std::string::npos);
        CHECK(read.error().detail.starts_with("t.json: "));
    }
    for (const char* text : {"", "[]", "3", "{}", "null", "{\"visits\":[[[[[[[[[[[[]]]]]]]]]]]]}"}) CHECK(!parse(text));
    for (size_t length = 0; length < kGood.size(); ++length) CHECK(!parse(kGood.substr(0, length)));
    for (size_t i = 0; i < kGood.size(); ++i)
        for (int bit = 0; bit < 8; ++bit) {
            std::string text = kGood;
            text[i] = char(text[i] ^ (1 << bit));
            auto read = parse(text);  // any answer, but only valid traces
            if (read)
                for (const Visit& visit : read->visits)
                    for (PageId page : visit.pages) REQUIRE(page < read->allPages());
        }
}
