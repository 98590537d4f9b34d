// The pager over a store of known bytes: what is in a slot is the page, whoever read it and whenever.
#include "host/pager.h"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "host/transfer.h"
#include "tests/devices.h"
#include "tests/must.h"
#include "tests/paging/pages.h"

using namespace vkmoe;

namespace {

// Page p is full of words of p; pages may be made unreadable, and keep what is written to them.
class WordStore final : public PageStore {
public:
    WordStore(uint32_t pages, bool writable) : words_(pages), writable_(writable) {
        for (uint32_t p = 0; p < pages; ++p) words_[p] = 1000 + p;
    }
    uint32_t pages() const override { return uint32_t(words_.size()); }
    uint64_t pageBytes(PageId page) const override { return 512 + page % 2 * 256; }
    uint64_t sourceBytes(PageId page) const override { return pageBytes(page); }
    Result<void> read(PageId page, std::span<std::byte> into, std::vector<std::byte>&) const override {
        if (page == slow) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (page == broken) return Error{ErrorCode::io, "page is broken"};
        for (size_t i = 0; i < into.size(); i += 4) std::memcpy(into.data() + i, &words_[page], 4);
        return {};
    }
    bool writable() const override { return writable_; }
    Result<void> write(PageId page, std::span<const std::byte> from) override {
        std::memcpy(&words_[page], from.data(), 4);
        for (size_t i = 0; i < from.size(); i += 4)
            if (std::memcmp(from.data() + i, &words_[page], 4) != 0) return Error{ErrorCode::io, "a torn page"};
        return {};
    }
    uint32_t word(PageId page) const { return words_[page]; }
    PageId broken = kNoPage, slow = kNoPage;

private:
    std::vector<uint32_t> words_;
    bool writable_;
};

struct Fixture {
    Device& device;
    WordStore* store;
    std::vector<Buffer> tables;
    std::unique_ptr<Pager> pager;
    std::vector<uint32_t> sizes;

    Fixture(Device& on, std::vector<uint32_t> groups, const PagerOptions& options, bool writable = false)
        : device(on), sizes(std::move(groups)) {
        uint32_t pages = 0;
        std::vector<PageGroup> made;
        tables.reserve(sizes.size());
        for (uint32_t size : sizes) {
            pages += size;
            tables.push_back(std::move(device.allocate(size * 8, Memory::device, "table")).value());
            made.push_back({size, &tables.back()});
        }
        auto owned = std::make_unique<WordStore>(pages, writable);
        store = owned.get();
        auto result = Pager::create(device, std::move(owned), std::move(made), options);
        if (!result) FAIL(result.error().detail);
        pager = std::move(result).value();
    }

    // The value of the device's timeline that says they are done.
    uint64_t submit(Commands& commands) {
        auto value = pager->submit(commands);
        REQUIRE(value);
        return *value;
    }

    uint64_t entry(PageId page) {
        uint32_t group = pager->groups().of(page);
        auto value = download<uint64_t>(device, tables[group], 1, (page - pager->groups().first(group)) * 8);
        REQUIRE(value);
        return value->front();
    }
};

// What the page's slot holds, as the device sees it.
std::vector<uint32_t> contents(Fixture& f, PageId page) {
    auto slot = f.pager->slotHolding(page);
    REQUIRE(slot);
    auto words = download<uint32_t>(f.device, *slot->slab, f.store->pageBytes(page) / 4, slot->offset);
    REQUIRE(words);
    return *words;
}

std::vector<PageId> somePages(std::mt19937& random, PageId first, uint32_t count, uint32_t most) {
    std::vector<PageId> pages;
    for (PageId p = first; p < first + count; ++p) pages.push_back(p);
    std::shuffle(pages.begin(), pages.end(), random);
    pages.resize(1 + random() % std::min(most, count));
    return pages;
}

}  // namespace

TEST_CASE("whatever turns come, a wave's pages are theirs and have addresses, the turn's others are null",
          "[paging][device]") {
    uint32_t seed = Catch::getSeed();
    CAPTURE(seed);
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        for (auto [placement, transfers] : test::kPlacements)
            for (uint64_t slots : {1, 3, 9, 40}) {
                std::mt19937 random(seed);
                uint64_t before = device->counters().transfers;
                PagerOptions options{.device_budget = slots / 2 * 768,
                                     .host_budget = (slots - slots / 2) * 768,
                                     .placement = placement,
                                     .transfer_queue = transfers};
                Fixture f(*device, {8, 8, 16}, options);
                for (int turn = 0; turn < 12; ++turn) {
                    uint32_t group = random() % 3;
                    auto pages = somePages(random, f.pager->groups().first(group), f.sizes[group], 16);
                    REQUIRE(f.pager->start(pages));
                    std::vector<PageId> seen;
                    while (!f.pager->done()) {
                        Commands commands;
                        REQUIRE(f.pager->next(commands));
                        REQUIRE(device->wait(f.submit(commands)));
                        auto wave = f.pager->wave();
                        seen.insert(seen.end(), wave.begin(), wave.end());
                        PageId probe = wave[random() % wave.size()];
                        std::vector<uint32_t> expected(f.store->pageBytes(probe) / 4, 1000 + probe);
                        CHECK(contents(f, probe) == expected);
                        for (PageId page : pages) {
                            bool now = std::find(wave.begin(), wave.end(), page) != wave.end();
                            CHECK(f.entry(page) == (now ? f.pager->address(page) : 0));
                        }
                    }
                    std::sort(seen.begin(), seen.end());
                    std::sort(pages.begin(), pages.end());
                    CHECK(seen == pages);  // each in one wave
                }
                auto counters = f.pager->counters();
                CHECK(counters.bytes_read > 0);
                CHECK((device->counters().transfers > before) == (transfers && slots > 1));
                CHECK(f.pager->slots(0) + f.pager->slots(1) <= std::max<uint64_t>(slots, 2));
                const auto& info = device->info();
                bool pins = placement == Placement::tiered && info.type != DeviceType::cpu;
                pins = pins && info.limits.host_import_alignment != 0;
                CHECK(device->ledger().pinned() == (pins ? f.pager->slots(1) * f.pager->slotBytes() : 0));
            }
    }
}

TEST_CASE("with room for all, everything is read once and stays", "[paging][device]") {
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        for (auto [placement, transfers] : test::kPlacements)
            for (auto [first, second] : {std::pair<uint64_t, uint64_t>{40, 0}, {0, 40}, {5, 28}, {20, 20}}) {
                PagerOptions options{.device_budget = first * 768,
                                     .host_budget = second * 768,
                                     .policy = Policy::lru,
                                     .placement = placement,
                                     .transfer_queue = transfers};
                Fixture f(*device, {8, 8, 16}, options);
                uint64_t last = 0;
                REQUIRE(f.pager->preload([&](uint64_t done, uint64_t all) { return last = done, all == 32; }));
                CHECK(last == 32);
                REQUIRE(f.pager->allResident());
                for (int pass = 0; pass < 6; ++pass) {
                    Commands commands;
                    REQUIRE(f.pager->rebalance(commands));
                    REQUIRE(device->wait(f.submit(commands)));
                    for (PageId page = 0; page < 32; ++page) {
                        CHECK(f.entry(page) == f.pager->address(page));
                        if (page % 7 == uint32_t(pass))
                            CHECK(contents(f, page) ==
                                  std::vector<uint32_t>(f.store->pageBytes(page) / 4, 1000 + page));
                    }
                    f.pager->note(2, std::vector<PageId>{30, 31, 20});
                }
                if (placement == Placement::tiered && first > 0) CHECK(f.pager->tierOf(31) == 0);  // used: it moved up
                CHECK(f.pager->counters().bytes_read == 32 * 512 + 16 * 256);
                CHECK(f.pager->counters().evictions == 0);
            }
    }
}

TEST_CASE("a preload that is cancelled, or meets a broken page, leaves the pager as good as new", "[paging][device]") {
    constexpr uint32_t kPages = 70;  // several waves of a preload
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        for (auto [placement, transfers] : test::kPlacements)
            for (auto [first, second] : {std::pair<uint64_t, uint64_t>{kPages, 0}, {0, kPages}, {kPages, 3}}) {
                CAPTURE(first, second);
                PagerOptions options{.device_budget = first * 768,
                                     .host_budget = second * 768,
                                     .placement = placement,
                                     .transfer_queue = transfers};
                Fixture f(*device, {30, 40}, options);
                f.store->broken = 50;
                auto cancelled = f.pager->preload([](uint64_t, uint64_t) { return false; });
                REQUIRE(!cancelled);
                CHECK(cancelled.error().code == ErrorCode::unsupported);
                auto broken = f.pager->preload();
                REQUIRE(!broken);
                CHECK(broken.error().detail == "page is broken");
                CHECK_FALSE(f.pager->allResident());
                REQUIRE(f.pager->start(std::vector<PageId>{3, 40, 69}));  // a turn between the two
                while (!f.pager->done()) {
                    Commands commands;
                    REQUIRE(f.pager->next(commands));
                    f.submit(commands);
                    for (PageId page : f.pager->wave())
                        CHECK(contents(f, page) == std::vector<uint32_t>(f.store->pageBytes(page) / 4, 1000 + page));
                }
                f.store->broken = kNoPage;
                uint64_t last = 0;
                REQUIRE(f.pager->preload([&](uint64_t done, uint64_t) { return last = done, true; }));
                CHECK(last == kPages);
                CHECK(f.pager->counters().evictions == 0);
                if (second == 3 && placement == Placement::tiered) continue;  // where tier 2 served as staging
                REQUIRE(f.pager->allResident());
                for (PageId page = 0; page < kPages; page += 23)
                    CHECK(contents(f, page) == std::vector<uint32_t>(f.store->pageBytes(page) / 4, 1000 + page));
            }
    }
}

TEST_CASE("a pass that is never submitted moves nothing", "[paging][device]") {
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        for (auto [placement, transfers] : test::kPlacements) {
            PagerOptions options{.device_budget = 5 * 768,
                                 .host_budget = 32 * 768,
                                 .policy = Policy::lru,
                                 .placement = placement,
                                 .transfer_queue = transfers};
            Fixture f(*device, {8, 8, 16}, options);
            REQUIRE(f.pager->preload());
            for (int pass = 0; pass < 9; ++pass) {
                PageId hot = PageId(16 + pass % 8);
                f.pager->note(2, std::vector<PageId>{hot, hot + 1, hot + 7});
                for (bool lost : {true, false}) {
                    Commands commands;
                    REQUIRE(f.pager->rebalance(commands));
                    if (lost && pass % 3 != 0) continue;
                    f.submit(commands);
                }
                REQUIRE(f.pager->allResident());
                for (PageId page = 0; page < 32; ++page) {
                    CHECK(f.entry(page) == f.pager->address(page));
                    CHECK(contents(f, page) == std::vector<uint32_t>(f.store->pageBytes(page) / 4, 1000 + page));
                }
            }
        }
    }
}

TEST_CASE("pages that fill an empty tier 1 are no trial of copies: hot ones go on moving up", "[paging]") {
    auto device = openCpuDevice();
    Fixture f(
        *device, {100, 100},
        {.device_budget = 150 * 768, .host_budget = 100 * 768, .policy = Policy::lru, .placement = Placement::tiered});
    REQUIRE(f.pager->preload());
    REQUIRE(f.pager->allResident());
    std::vector<PageId> hot;
    for (PageId page = 100; page < 200 && hot.size() < 4; ++page)
        if (f.pager->tierOf(page) == 1) hot.push_back(page);
    REQUIRE(hot.size() == 4);
    for (int pass = 0; pass < 3; ++pass) {
        Commands commands;
        REQUIRE(f.pager->rebalance(commands));
        f.submit(commands);
        f.pager->note(1, hot);
    }
    for (PageId page : hot) CHECK(f.pager->tierOf(page) == 0);
}

TEST_CASE("a read ahead that fails while the turn waits for it is the turn's error", "[paging]") {
    auto device = openCpuDevice();
    Fixture f(*device, {8}, {.device_budget = 6 * 768});
    const auto wave = [&]() -> Result<void> {
        Commands commands;
        VKMOE_CHECK(f.pager->next(commands));
        VKMOE_CHECK(f.pager->submit(commands));
        return {};
    };
    REQUIRE(f.pager->start(std::vector<PageId>{4}));
    REQUIRE(wave());
    f.store->broken = f.store->slow = 5;
    f.pager->readAhead(std::vector<PageId>{5});
    REQUIRE(f.pager->start(std::vector<PageId>{4, 5}));
    REQUIRE(wave());
    std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the read has failed
    f.pager->readAhead(std::vector<PageId>{6});
    REQUIRE(!f.pager->done());
    auto failed = wave();
    REQUIRE(!failed);
    CHECK(failed.error().detail == "page is broken");
}

TEST_CASE("tier 2 holds no second copy of what tier 1 has room for", "[paging]") {
    auto device = openCpuDevice();
    Fixture f(*device, {100, 100},
              {.device_budget = 200 * 768, .host_budget = 200 * 768, .placement = Placement::tiered});
    CHECK(f.pager->slots(0) == 200);
    CHECK(f.pager->slots(1) < 100);
    REQUIRE(f.pager->preload());
    REQUIRE(f.pager->allResident());
    for (PageId page = 0; page < 200; ++page) CHECK(f.pager->tierOf(page) == 0);
}

TEST_CASE("a page that cannot be read is an error of its turn, and of no other", "[paging]") {
    auto device = openCpuDevice();
    Fixture f(*device, {8, 8}, {.device_budget = 4 * 768});
    auto run = [&](std::vector<PageId> pages) -> Result<void> {
        VKMOE_CHECK(f.pager->start(pages));
        while (!f.pager->done()) {
            Commands commands;
            VKMOE_CHECK(f.pager->next(commands));
            VKMOE_CHECK(f.pager->submit(commands));
        }
        return {};
    };
    REQUIRE(run({0, 1, 2}));
    f.store->broken = 5;
    auto result = run({1, 4, 5, 6, 7});
    REQUIRE(!result);
    CHECK(result.error().detail == "page is broken");
    REQUIRE(run({1, 4, 6, 7}));
    f.store->broken = kNoPage;
    REQUIRE(run({1, 4, 5, 6, 7}));
    CHECK(contents(f, 5).front() == 1005);
    auto none =
        Pager::create(*device, std::make_unique<WordStore>(4, false), {{4, &f.tables[0]}}, {.device_budget = 700});
    REQUIRE(!none);
    CHECK(none.error().code == ErrorCode::out_of_memory);
}

TEST_CASE("a page whose read ahead is dropped for the turn's first pages changes all the same", "[paging]") {
    auto device = openCpuDevice();
    Fixture f(*device, {4}, {.device_budget = 2 * 768, .placement = Placement::flat, .prefetch = true}, true);
    f.store->slow = 2;
    f.pager->readAhead(std::vector<PageId>{2});  // under way when a slot is wanted that only it holds
    REQUIRE(f.pager->start(std::vector<PageId>{0, 1, 2, 3}, 2, 0b11));
    while (!f.pager->done()) {
        Commands commands;
        REQUIRE(f.pager->next(commands));
        for (PageId page : f.pager->wave()) {
            const Slot* slot = f.pager->slotHolding(page);
            commands.fill(*slot->slab, slot->offset, f.store->pageBytes(page), 2000 + page);
        }
        f.submit(commands);
    }
    REQUIRE(f.pager->writeBack());
    for (PageId page = 0; page < 4; ++page) CHECK(f.store->word(page) == 2000 + page);
}

TEST_CASE("pages that change are written back before their slots are used again", "[paging][device]") {
    uint32_t seed = Catch::getSeed();
    CAPTURE(seed);
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        for (Placement placement : {Placement::flat, Placement::tiered}) {
            std::mt19937 random(seed);
            Fixture f(*device, {24}, {.device_budget = 4 * 768, .host_budget = 4 * 768, .placement = placement}, true);
            std::vector<uint32_t> truth;
            for (PageId p = 0; p < 24; ++p) truth.push_back(1000 + p);
            for (int turn = 0; turn < 40; ++turn) {
                auto pages = somePages(random, 0, 24, 12);
                bool changes = turn % 3 != 0;
                if (pages.size() % 2 != 0) pages.pop_back();
                if (pages.empty()) continue;
                REQUIRE(f.pager->start(pages, 2, changes ? 3 : 0));
                while (!f.pager->done()) {
                    Commands commands;
                    REQUIRE(f.pager->next(commands));
                    for (PageId page : f.pager->wave()) {
                        CHECK(f.pager->address(page) != 0);
                        auto slot = f.pager->slotHolding(page);
                        if (changes) commands.fill(*slot->slab, slot->offset, f.store->pageBytes(page), ++truth[page]);
                    }
                    CHECK(f.pager->wave().size() % 2 == 0);
                    f.submit(commands);
                }
                for (PageId page = 0; page < 24; ++page)
                    if (f.pager->address(page) != 0) CHECK(contents(f, page).front() == truth[page]);
            }
            REQUIRE(f.pager->writeBack());
            for (PageId page = 0; page < 24; ++page) CHECK(f.store->word(page) == truth[page]);
            CHECK(f.pager->counters().bytes_written > 0);
        }
    }
}

TEST_CASE("units fit as long as memory holds one, whatever of the others is there already", "[paging][device]") {
    uint32_t seed = Catch::getSeed();
    CAPTURE(seed);
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        for (Placement placement : {Placement::flat, Placement::tiered})
            for (uint32_t unit : {2, 3}) {
                std::mt19937 random(seed);
                PagerOptions options{.device_budget = unit * 768, .placement = placement, .unit = unit};
                Fixture f(*device, {6, 6, 6}, options, true);
                std::vector<uint32_t> truth;
                for (PageId p = 0; p < 18; ++p) truth.push_back(1000 + p);
                for (int turn = 0; turn < 20; ++turn) {
                    uint32_t together = turn % 2 == 0 ? unit : 1;  // single pages leave parts of units behind
                    uint32_t changes = random() % (1u << together);
                    std::vector<PageId> pages;
                    for (PageId first : somePages(random, 0, 6, 4))
                        for (uint32_t i = 0; i < together; ++i) pages.push_back(first + 6 * i);
                    REQUIRE(f.pager->start(pages, together, changes));
                    while (!f.pager->done()) {
                        Commands commands;
                        REQUIRE(f.pager->next(commands));
                        for (PageId page : f.pager->wave()) {
                            if ((changes >> page / 6 & 1) == 0) continue;
                            auto slot = f.pager->slotHolding(page);
                            commands.fill(*slot->slab, slot->offset, f.store->pageBytes(page), ++truth[page]);
                        }
                        f.submit(commands);
                    }
                }
                REQUIRE(f.pager->writeBack());
                for (PageId page = 0; page < 18; ++page) CHECK(f.store->word(page) == truth[page]);
            }
    }
}

TEST_CASE("10,000 random page-ins by eight threads put every page's bytes in its slot", "[paging]") {
    uint32_t seed = Catch::getSeed();
    CAPTURE(seed);
    auto device = openCpuDevice();
    std::mt19937 random(seed);
    Fixture f(*device, std::vector<uint32_t>(8, 64),
              {.device_budget = 100 * 768, .host_budget = 28 * 768, .readers = 8});
    uint64_t wrong = 0, turns = 0;
    while (f.pager->counters().tier3 < 10000) {
        uint32_t group = random() % 8;
        auto pages = somePages(random, group * 64, 64, 64);
        REQUIRE(f.pager->start(pages));
        while (!f.pager->done()) {
            Commands commands;
            REQUIRE(f.pager->next(commands));
            REQUIRE(f.pager->submit(commands));
            for (PageId page : f.pager->wave()) {
                auto slot = f.pager->slotHolding(page);
                auto bytes = slot->bytes(f.store->pageBytes(page));
                uint32_t word = 1000 + page;
                for (size_t i = 0; i < bytes.size(); i += 4) wrong += std::memcmp(bytes.data() + i, &word, 4) != 0;
            }
            f.pager->readAhead(somePages(random, (group + 1) % 8 * 64, 64, 8));
        }
        ++turns;
    }
    CHECK(wrong == 0);
    CHECK(turns > 0);
}

TEST_CASE("slots beyond 4 GiB have addresses of their own", "[paging][large]") {
    auto device = openCpuDevice();
    const uint64_t slot_bytes = uint64_t{96} << 20, count = 56;  // 5.25 GiB, of which next to nothing is touched
    Slots slots = test::must(Slots::create(*device, Memory::upload, slot_bytes, count, "slots"));
    REQUIRE(slots.size() == count);
    uint64_t lowest = UINT64_MAX, highest = 0;
    for (uint32_t i = 0; i < count; ++i) {
        CHECK(slots[i].offset + slot_bytes <= slots[i].slab->size());
        CHECK(slots[i].slab->size() <= uint64_t{1} << 30);
        lowest = std::min(lowest, slots[i].address());
        highest = std::max(highest, slots[i].address());
        std::memcpy(slots[i].bytes(4).data(), &i, 4);
    }
    CHECK(highest - lowest > uint64_t{1} << 32);
    for (uint32_t i = 0; i < count; ++i) CHECK(std::memcmp(slots[i].bytes(4).data(), &i, 4) == 0);
}
