// Team and WorkList: whatever the threads do, each group of each piece runs once, and what is thrown arrives.
#include "host/cpu/team.h"

#include <tbb/global_control.h>
#include <tbb/parallel_for.h>

#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <cfenv>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>

#include "host/clock.h"
#include "host/cpu/work_list.h"
#include "tests/must.h"

using namespace vkmoe;

namespace {

using tbb::global_control;

// Pieces of a few sizes, and how often each of their groups ran.
struct Loop {
    std::vector<std::vector<uint32_t>> runs;
    std::vector<double> seconds;

    Loop(std::mt19937& random, WorkList& work) : runs(1 + random() % 12), seconds(runs.size()) {
        for (size_t i = 0; i < runs.size(); ++i) {
            runs[i].resize(random() % 8 == 0 ? random() % 3000 : random() % 9);
            work.add(runs[i].size(), seconds[i], [&ran = runs[i]](uint64_t begin, uint64_t end) {
                for (uint64_t at = begin; at < end; ++at) ++ran[at];
            });
        }
    }

    bool eachOnce() const {
        return std::all_of(runs.begin(), runs.end(), [](const auto& ran) {
            return std::all_of(ran.begin(), ran.end(), [](auto n) { return n == 1; });
        });
    }
};

}  // namespace

TEST_CASE("threads share loops: each group runs once", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 8);
    for (size_t threads : {1, 2, 3, 8}) {
        INFO(threads << " threads");
        std::mt19937 random(7);
        Team team(threads);
        WorkList work(threads);
        size_t wrong = 0, lists = 200;
        for (size_t list = 0; list < lists; ++list)
            team.lead([&] {
                for (int i = 0; i < 50; ++i) {
                    work.clear();
                    Loop loop(random, work);
                    const bool here = threads == 1 || random() % 4 == 0;
                    if (here) work.runHere(random() % 2 == 0);
                    if (!here) team.share(random() % 10, [&] { work.run(Team::place() % 2 != 0); });
                    if (!loop.eachOnce()) ++wrong;
                    if (!here && (work.left() != 0 || std::abs(work.seconds()) > 1e-9)) ++wrong;
                }
            });
        CHECK(wrong == 0);
    }
}

TEST_CASE("threads share loops: helpers come, and round to nearest", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 8);
    std::fesetround(FE_UPWARD);  // what oneTBB takes over from the thread that makes an arena
    Team team(2);
    const auto leader = std::this_thread::get_id();
    std::atomic<bool> came = false, nearest = true;
    const double start = secondsNow();
    while (!came && secondsNow() - start < 20)
        team.lead([&] {
            for (int i = 0; i < 1000 && !came; ++i)
                team.share(1, [&] {
                    if (std::this_thread::get_id() == leader) return std::this_thread::yield();
                    if (std::fegetround() != FE_TONEAREST) nearest = false;
                    came = true;
                });
        });
    std::fesetround(FE_TONEAREST);
    CHECK(came);
    CHECK(nearest);
}

TEST_CASE("a team leads where no helper may come, and inside a caller's tasks", "[host]") {
    auto count = [](size_t threads) {
        Team team(threads);
        WorkList work(threads);
        uint32_t ran = 0;
        double seconds = 0;
        team.lead([&] {
            work.add(100, seconds, [&](uint64_t begin, uint64_t end) {
                std::atomic_ref(ran).fetch_add(uint32_t(end - begin), std::memory_order_relaxed);
            });
            team.share(threads - 1, [&] { work.run(Team::place() % 2 != 0); });
        });
        return ran;
    };
    {
        global_control alone(global_control::max_allowed_parallelism, 1);
        CHECK(count(4) == 100);
    }
    std::atomic<uint32_t> all = 0;
    tbb::parallel_for(0, 40, [&](int) { all += count(3); });
    CHECK(all == 4000);
}

TEST_CASE("threads share loops: what one of them throws, the leader throws, and the next loop runs", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 8);
    Team team(4);
    WorkList work(4);
    for (int round = 0; round < 200; ++round) {
        std::vector<uint32_t> ran(64);
        double seconds = 0;
        auto lead = [&](size_t failing) {
            team.lead([&] {
                work.clear();
                work.add(ran.size(), seconds, [&](uint64_t begin, uint64_t end) {
                    for (uint64_t i = begin; i < end; ++i) {
                        if (i == failing) throw std::runtime_error("group");
                        ++ran[i];
                    }
                });
                team.share(3, [&] { work.run(Team::place() % 2 != 0); });
            });
        };
        CHECK_THROWS_AS(lead(size_t(round) % ran.size()), std::runtime_error);
        ran.assign(ran.size(), 0);
        lead(ran.size());
        CHECK(std::accumulate(ran.begin(), ran.end(), 0u) == ran.size());
    }
}

TEST_CASE("a work list learns what a group takes", "[host]") {
    WorkList work(2);
    double seconds = 0;
    work.add(4, seconds, [](uint64_t, uint64_t) {
        for (double start = secondsNow(); secondsNow() == start;) {
        }
    });
    CHECK(work.seconds() == 4e-6);  // not known: a microsecond each
    CHECK(work.left() == 4);
    work.run(true);
    CHECK(work.left() == 0);
    CHECK(work.seconds() < 1e-12);
    CHECK(seconds > 0);
    CHECK(seconds < 1e-3);
    work.clear();
    seconds = 0.5;
    work.add(3, seconds, [](uint64_t, uint64_t) {});
    work.add(0, seconds, [](uint64_t, uint64_t) {});
    CHECK(work.seconds() == 1.5);
}
