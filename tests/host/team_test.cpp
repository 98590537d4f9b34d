// Team and WorkList: whatever the threads do, each group of each piece runs once, and what is thrown arrives.
#include "host/cpu/team.h"

#include <tbb/global_control.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <cfenv>
#include <cmath>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>

#include "host/clock.h"
#include "host/cpu/work_list.h"

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

void spinFor(double seconds) {
    for (const double start = secondsNow(); secondsNow() - start < seconds;) {
    }
}

}  // namespace

TEST_CASE("threads share loops: each group runs once", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 8);
    for (size_t threads : {1, 2, 3, 8}) {
        INFO(threads << " threads");
        std::mt19937 random(7);
        Team team(threads);
        WorkList work;
        work.divide(threads);
        size_t wrong = 0, lists = 200;
        for (size_t list = 0; list < lists; ++list)
            team.lead([&] {
                for (int i = 0; i < 50; ++i) {
                    work.clear();
                    Loop loop(random, work);
                    const bool here = threads == 1 || random() % 4 == 0;
                    if (here) work.runHere(random() % 2 == 0);
                    if (!here) team.share(random() % 10, [&](size_t place) { work.run(place % 2 != 0); });
                    if (!loop.eachOnce()) ++wrong;
                    if (!here && (work.left() != 0 || std::abs(work.seconds()) > 1e-9)) ++wrong;
                }
            });
        CHECK(wrong == 0);
    }
}

TEST_CASE("threads share loops: once a loop is over, nobody begins with it", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 8);
    Team team(3);
    std::atomic<size_t> late = 0;
    for (int list = 0; list < 3000; ++list) {
        team.lead([&] {
            std::atomic<bool> over = false;
            team.share(2, [&](size_t) {
                if (over) ++late;
            });
            over = true;
            spinFor(20e-6);
        });
        spinFor(list % 3 * 100e-6);
    }
    CHECK(late == 0);
}

TEST_CASE("threads share loops: helpers stay for a list that follows", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 8);
    Team team(2);
    size_t came = 0, stayed = 0;
    for (int list = 0; list < 2000; ++list) {
        std::atomic<bool> here = false;
        team.lead([&] {
            for (int i = 0; i < 20; ++i)
                team.share(1, [&](size_t place) { place == 0 ? spinFor(1e-6) : void(here = true); });
        });
        if (!here) continue;
        ++came;
        spinFor(3e-6);
        stayed += team.called();
    }
    CHECK(stayed >= came / 2);
}

TEST_CASE("threads share loops: helpers go when no list follows, also those that slept", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 8);
    Team team(2);
    std::atomic<bool> here = false;
    const double start = secondsNow();
    team.lead([&] {
        while (!here && secondsNow() - start < 20)
            team.share(1, [&](size_t place) { place == 0 ? std::this_thread::yield() : void(here = true); });
        spinFor(20e-3);
    });
    CHECK(here);
    const double end = secondsNow();
    while (team.called() && secondsNow() - end < 20) std::this_thread::yield();
    CHECK_FALSE(team.called());
}

// Lists follow each other about when helpers stop waiting for the next one.
TEST_CASE("threads share loops: each group runs once, whenever helpers go", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 4);
    std::mt19937 random(11);
    Team team(3);
    WorkList work;
    work.divide(3);
    size_t wrong = 0;
    for (int list = 0; list < 3000; ++list) {
        if (list % 4 != 0) spinFor(double(random() % 100) * 1e-6);
        team.lead([&] {
            for (int i = 0; i < 3; ++i) {
                work.clear();
                Loop loop(random, work);
                team.share(2, [&](size_t place) { work.run(place % 2 != 0); });
                if (!loop.eachOnce()) ++wrong;
            }
        });
    }
    CHECK(wrong == 0);
}

TEST_CASE("what is hardly worth a range of its own is taken along", "[host]") {
    for (bool from_end : {false, true})
        for (uint64_t groups : {1, 15, 17, 513}) {
            WorkList work;
            double seconds = 10e-9;
            size_t ranges = 0;
            work.add(groups, seconds, [&](uint64_t, uint64_t) { ++ranges; });
            work.run(from_end);
            INFO(groups << " groups");
            CHECK(ranges == 1);
        }
}

TEST_CASE("threads share loops: helpers come, and round to nearest", "[host]") {
    global_control more_than_cores(global_control::max_allowed_parallelism, 8);
    std::fesetround(FE_UPWARD);  // what oneTBB takes over from the thread that makes an arena
    Team team(2);
    std::atomic<bool> came = false, nearest = true;
    const double start = secondsNow();
    while (!came && secondsNow() - start < 20)
        team.lead([&] {
            for (int i = 0; i < 1000 && !came; ++i)
                team.share(1, [&](size_t place) {
                    if (place == 0) return std::this_thread::yield();
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
        WorkList work;
        work.divide(threads);
        uint32_t ran = 0;
        double seconds = 0;
        team.lead([&] {
            work.add(100, seconds, [&](uint64_t begin, uint64_t end) {
                std::atomic_ref(ran).fetch_add(uint32_t(end - begin), std::memory_order_relaxed);
            });
            team.share(threads - 1, [&](size_t place) { work.run(place % 2 != 0); });
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
    WorkList work;
    work.divide(4);
    std::atomic<bool> helper_threw = false;
    const double start = secondsNow();
    auto lead = [&](bool helper_throws) {
        std::vector<uint32_t> ran(64);
        double seconds = 0;
        team.lead([&] {
            work.clear();
            work.add(ran.size(), seconds, [&](uint64_t begin, uint64_t end) {
                for (uint64_t i = begin; i < end; ++i) ++ran[i];
            });
            team.share(3, [&](size_t place) {
                if (place == 0 && !helper_throws) throw std::runtime_error("leader");
                if (place == 0)
                    for (int i = 0; i < 1000 && !helper_threw; ++i) std::this_thread::yield();
                if (place != 0 && helper_throws) {
                    helper_threw = true;
                    throw std::runtime_error("helper");
                }
                work.run(place % 2 != 0);
            });
        });
        return std::accumulate(ran.begin(), ran.end(), 0u);
    };
    CHECK_THROWS_AS(lead(false), std::runtime_error);
    while (!helper_threw && secondsNow() - start < 20) {
        uint32_t done = 0;
        bool thrown = false;
        try {
            done = lead(true);
        } catch (const std::runtime_error&) {
            thrown = true;
        }
        CHECK(thrown == helper_threw);
        CHECK((thrown || done == 64));
    }
    CHECK(helper_threw);
    helper_threw = false;
    uint32_t ran = 0;
    team.lead([&] {
        team.share(3, [&](size_t place) {
            if (place == 0) ++ran;
        });
    });
    CHECK(ran == 1);
}

TEST_CASE("a work list learns what a group takes: at once if more, by and by if less", "[host]") {
    WorkList work;
    work.divide(2);
    double seconds = 0;
    auto slow = [](uint64_t, uint64_t) {
        for (double start = secondsNow(); secondsNow() - start < 1e-4;) {
        }
    };
    auto quick = [](uint64_t, uint64_t) {};
    work.add(4, seconds, slow);
    CHECK(work.seconds() == 4e-6);  // not known: a microsecond each
    CHECK(work.left() == 4);
    const double start = secondsNow();
    work.run(true);
    CHECK(work.left() == 0);
    CHECK(work.seconds() < 1e-12);
    CHECK(seconds >= 1e-4 / 4);
    CHECK(seconds <= secondsNow() - start);

    work.clear();
    seconds = 0.5;
    work.add(3, seconds, quick);
    work.add(0, seconds, quick);
    CHECK(work.seconds() == 1.5);
    work.runHere(false);
    CHECK(seconds == 0.5);
    work.clear();
    work.add(3, seconds, quick);
    work.runHere(true);
    CHECK(seconds > 0.4);
    CHECK(seconds < 0.5);
    work.clear();
    seconds = 1e-9;
    work.add(1, seconds, slow);
    work.runHere(true);
    CHECK(std::abs(seconds - 8e-9) < 1e-12);  // it may have been interrupted: no more than so much at once
}

TEST_CASE("threads that share a long loop are done at the same time", "[host]") {
    constexpr size_t kThreads = 8;
    constexpr uint64_t kGroups = 512;
    constexpr double kSeconds = 0.02;  // of each thread, which sleeps: cores do not matter
    double group_seconds = 0, best = 1e9;
    for (int attempt = 0; attempt < 6; ++attempt) {  // the first one learns what a group takes
        WorkList work;
        work.divide(kThreads);
        work.add(kGroups, group_seconds, [](uint64_t begin, uint64_t end) {
            std::this_thread::sleep_for(
                std::chrono::duration<double>(double(end - begin) * kSeconds * kThreads / kGroups));
        });
        const double start = secondsNow();
        {
            std::vector<std::jthread> threads;
            for (size_t i = 0; i < kThreads; ++i) threads.emplace_back([&work, i] { work.run(i % 2 != 0); });
        }
        best = std::min(best, secondsNow() - start);
    }
    CHECK(best < 1.25 * kSeconds);
}
