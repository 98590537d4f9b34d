// Stores that keep pages: in memory, and in a file without a name.
#include <algorithm>
#include <atomic>
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
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
