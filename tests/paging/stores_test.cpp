// Stores that keep pages: in memory, and in a file without a name.
#include <algorithm>
#include <atomic>
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <latch>
#include <mutex>
#include <random>
#include <thread>

#include "host/page_reader.h"
#include "host/ram_store.h"
#include "host/scratch_store.h"
#include "tests/small_files.h"

using namespace vkmoe;

namespace {

using Page = std::vector<std::byte>;
constexpr uint64_t kBytes = 768;

std::unique_ptr<PageStore> make(bool file, uint32_t pages) {
    if (!file) return std::make_unique<RamStore>(pages, kBytes);
    auto store = ScratchStore::create(std::filesystem::temp_directory_path().string(), pages, kBytes);
    REQUIRE(store);
    return std::move(*store);
}

Page randomPage(std::mt19937& random) {
    Page page(kBytes);
    for (auto& byte : page) byte = std::byte(random());
    if (random() % 4 == 0) std::fill(page.begin(), page.end(), std::byte{0});
    return page;
}

Page readPage(const PageStore& store, PageId id) {
    Page page(kBytes, std::byte{99}), scratch;
    REQUIRE(store.read(id, page, scratch));
    return page;
}

}  // namespace

TEST_CASE("a store gives back what was written last, and zeros before", "[paging]") {
    uint32_t seed = Catch::getSeed();
    CAPTURE(seed);
    for (bool file : {false, true}) {
        std::mt19937 random(seed);
        auto store = make(file, 13);
        CHECK(store->writable());
        std::vector<Page> truth(13, Page(kBytes));
        for (int i = 0; i < 300; ++i) {
            PageId id = random() % 13;
            CHECK(readPage(*store, id) == truth[id]);
            CHECK(store->sourceBytes(id) == (allZero(truth[id]) ? 0 : kBytes));
            truth[id] = randomPage(random);
            REQUIRE(store->write(id, truth[id]));
        }
        for (PageId id = 0; id < 13; ++id) CHECK(readPage(*store, id) == truth[id]);
    }
}

TEST_CASE("threads read pages while another is written", "[paging]") {
    for (bool file : {false, true}) {
        auto store = make(file, 5);
        for (PageId id = 0; id < 4; ++id) REQUIRE(store->write(id, Page(kBytes, std::byte(id + 1))));
        std::atomic<int> wrong = 0;
        std::vector<std::thread> readers;
        for (PageId id = 0; id < 4; ++id)
            readers.emplace_back([&, id] {
                Page page(kBytes), scratch;
                for (int i = 0; i < 200; ++i)
                    wrong += !store->read(id, page, scratch) || page != Page(kBytes, std::byte(id + 1));
            });
        for (int i = 0; i < 200; ++i) wrong += !store->write(4, Page(kBytes, std::byte(i)));
        for (auto& reader : readers) reader.join();
        CHECK(wrong == 0);
    }
}

TEST_CASE("a reader without threads reads what is waited for", "[paging]") {
    std::mt19937 random(Catch::getSeed());
    auto store = make(false, 4);
    std::vector<Page> truth;
    for (PageId id = 0; id < 4; ++id) {
        truth.push_back(randomPage(random));
        REQUIRE(store->write(id, truth.back()));
    }
    PageReader reader(*store, 0);
    std::vector<Page> into(4, Page(kBytes));
    for (PageId id = 0; id < 4; ++id) reader.request(id, into[id], PageReader::Urgency::ahead);
    reader.hurry(2);
    CHECK_FALSE(reader.take(1));
    CHECK(reader.cancel(1));
    for (PageId id : {2, 0, 3}) {
        REQUIRE(reader.wait(id));
        CHECK(into[id] == truth[id]);
    }
    CHECK(reader.work().pages == 3);
}

TEST_CASE("the disk hears of every page that is read once, and of a few that wait", "[paging]") {
    struct Store final : PageStore {
        mutable std::mutex mutex;
        mutable std::vector<PageId> announced, done;
        mutable size_t most_ahead = 0;
        uint32_t pages() const override { return 100; }
        uint64_t pageBytes(PageId) const override { return kBytes; }
        uint64_t sourceBytes(PageId) const override { return kBytes; }
        void announce(PageId page) const override {
            std::lock_guard lock(mutex);
            announced.push_back(page);
        }
        Result<void> read(PageId page, std::span<std::byte>, std::vector<std::byte>&) const override {
            std::lock_guard lock(mutex);
            done.push_back(page);
            if (announced.size() > done.size()) most_ahead = std::max(most_ahead, announced.size() - done.size());
            return {};
        }
    } store;
    std::mt19937 random(Catch::getSeed());
    std::vector<Page> into(store.pages(), Page(kBytes));
    std::vector<PageId> wanted;
    {
        PageReader reader(store, 2);
        for (PageId id = 0; id < store.pages(); ++id)
            reader.request(id, into[id], random() % 2 ? PageReader::Urgency::ahead : PageReader::Urgency::needed);
        for (PageId id = 0; id < store.pages(); ++id) {
            if (random() % 4 == 0) reader.hurry(id);
            if (random() % 4 != 0 || !reader.cancel(id)) wanted.push_back(id);
        }
        for (PageId id : wanted) REQUIRE(reader.wait(id));
    }
    for (PageId id : wanted) CHECK(std::count(store.announced.begin(), store.announced.end(), id) == 1);
    std::sort(store.done.begin(), store.done.end());
    CHECK(store.done == wanted);
    CHECK(store.most_ahead > 0);
    CHECK(store.most_ahead < 60);  // with those that were given up
}

namespace {

// 100 pages in rows of 30, three parts each; read() and parts are written down. The first read of all waits until go().
class RowStore final : public PageStore {
public:
    struct Read {
        PageId page;
        int part;  // -1: the whole page
        bool operator==(const Read&) const = default;
    };
    uint32_t pages() const override { return 100; }
    uint64_t pageBytes(PageId) const override { return kBytes; }
    uint64_t sourceBytes(PageId) const override { return uint64_t{4} << 20; }
    Row row(PageId page) const override { return {(page / 30 + 1) * 30, 3}; }
    Result<void> read(PageId page, std::span<std::byte> into, std::vector<std::byte>& scratch) const override {
        note({page, -1});
        for (uint32_t part = 0; part < 3; ++part) VKMOE_CHECK(fill(page, part, into));
        return static_cast<void>(scratch), Result<void>();
    }
    Result<void> readPart(PageId page, uint32_t part, std::span<std::byte> into,
                          std::vector<std::byte>&) const override {
        note({page, int(part)});
        return fill(page, part, into);
    }
    void go() { going_.count_down(); }
    static bool isRead(PageId page, const Page& bytes) {
        for (uint32_t i = 0; i < kBytes; ++i)
            if (bytes[i] != std::byte(page + i / (kBytes / 3))) return false;
        return true;
    }
    std::vector<Read> reads() const {
        std::lock_guard lock(mutex_);
        return reads_;
    }
    PageId broken = UINT32_MAX;  // its second part

private:
    void note(Read read) const {
        {
            std::lock_guard lock(mutex_);
            reads_.push_back(read);
        }
        going_.wait();
    }
    Result<void> fill(PageId page, uint32_t part, std::span<std::byte> into) const {
        if (page == broken && part == 1) return Error{ErrorCode::io, "its second part"};
        auto bytes = into.subspan(part * (kBytes / 3), kBytes / 3);
        std::fill(bytes.begin(), bytes.end(), std::byte(page + part));
        return {};
    }

    mutable std::mutex mutex_;
    mutable std::vector<Read> reads_;
    mutable std::latch going_{1};
};

}  // namespace

TEST_CASE("neighbours that are needed are read part by part, as far as their row goes and not too many", "[paging]") {
    RowStore store;
    store.broken = 20;
    std::vector<Page> into(store.pages(), Page(kBytes));
    {
        PageReader reader(store, 1);
        reader.request(99, into[99], PageReader::Urgency::needed);  // holds the thread up
        while (store.reads().empty()) std::this_thread::yield();
        auto request = [&](PageId from, PageId to, PageReader::Urgency urgency) {
            for (PageId page = from; page < to; ++page) reader.request(page, into[page], urgency);
        };
        request(0, 70, PageReader::Urgency::needed);
        request(70, 80, PageReader::Urgency::ahead);
        CHECK(reader.cancel(40));
        reader.hurry(70);
        store.go();
        CHECK(reader.wait(99));
        for (PageId page = 0; page < 80; ++page) {
            if (page == 40) continue;
            auto outcome = reader.wait(page);
            CHECK(bool(outcome) == (page != 20));
            if (outcome) CHECK(RowStore::isRead(page, into[page]));
        }
        CHECK(reader.work().pages == 80);
    }
    std::vector<RowStore::Read> expected{{99, -1}};
    auto run = [&](PageId from, PageId to) {
        for (int part = 0; part < 3; ++part)
            for (PageId page = from; page < to; ++page) expected.push_back({page, part});
    };
    auto one_by_one = [&](PageId from, PageId to) {
        for (PageId page = from; page < to; ++page) expected.push_back({page, -1});
    };
    run(0, 16);  // 64 MiB
    run(16, 30);
    run(30, 40);
    run(41, 57);
    one_by_one(57, 60);
    run(60, 71);
    one_by_one(71, 80);  // read ahead
    CHECK(store.reads() == expected);
}

TEST_CASE("threads share the parts of a run, each of which is read once", "[paging]") {
    uint32_t seed = Catch::getSeed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 50; ++round) {
        RowStore store;
        store.go();
        std::vector<Page> into(store.pages(), Page(kBytes));
        std::vector<int> wanted(store.pages());
        PageReader reader(store, 8);
        for (PageId page = 0; page < store.pages(); ++page)
            if ((wanted[page] = random() % 8 != 0))
                reader.request(page, into[page],
                               random() % 30 ? PageReader::Urgency::needed : PageReader::Urgency::ahead);
        for (PageId page = 0; page < store.pages(); ++page) {
            if (!wanted[page] || (random() % 8 == 0 && reader.cancel(page))) continue;
            REQUIRE(reader.wait(page));
            CHECK(RowStore::isRead(page, into[page]));
        }
        std::vector<int> parts(store.pages());
        for (const auto& read : store.reads()) parts[read.page] += read.part < 0 ? 3 : 1;
        for (int count : parts) CHECK((count == 0 || count == 3));
    }
}

TEST_CASE("a full disk is an error that names the page, and no page is taken for what it is not", "[paging]") {
    auto store = make(true, 8);
    const Page ones(kBytes, std::byte{1}), twos(kBytes, std::byte{2});
    REQUIRE(store->write(0, ones));
    {
        test::SmallFiles limit(2 * kBytes + 100);
        REQUIRE(store->write(1, ones));
        auto failed = store->write(2, ones);
        REQUIRE_FALSE(failed);
        CHECK(failed.error().code == ErrorCode::io);
        CHECK(failed.error().detail.find("page 2, 768 bytes at 1536, cannot be written: File too large") !=
              std::string::npos);
        Page page(kBytes), scratch;
        auto torn = store->read(2, page, scratch);
        REQUIRE_FALSE(torn);
        CHECK(torn.error().code == ErrorCode::io);
        REQUIRE(store->write(0, twos));
    }
    CHECK(readPage(*store, 0) == twos);
    CHECK(readPage(*store, 1) == ones);
    REQUIRE(store->write(2, twos));
    CHECK(readPage(*store, 2) == twos);
    CHECK_FALSE(ScratchStore::create("/nowhere/at all", 1, 256));
    CHECK_FALSE(ScratchStore::create("/tmp", UINT32_MAX, uint64_t{1} << 40));
}
