// Team: threads that work on one loop after another with the thread that leads them.
//
// A step of a small model is dozens of loops of a few microseconds, and to start a loop on threads that wait for tasks
// takes as long as most of them. So helpers (tasks of oneTBB) are called once for a whole list of loops, as many as a
// loop has work for, and watch for the next one. The leader waits for none but those that work with it: a helper that
// the system never runs costs nothing. Between loops helpers spin for some tens of microseconds, then they sleep;
// between lists they spin as long, for the next list often follows at once, and then they go.
#pragma once

#include <tbb/spin_mutex.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

#include <atomic>
#include <exception>
#include <functional>

namespace vkmoe {
inline namespace v1 {

class Team {
public:
    using Loop = std::function<void(size_t place)>;

    // Of `threads` threads, one or more, with the leader.
    explicit Team(size_t threads) : arena_(int(threads)), threads_(threads) {}
    ~Team() noexcept;  // waits until the helpers have gone

    size_t threads() const { return threads_; }
    // Whether helpers were called and have not gone: a loop can be shared at once (unless they are about to go).
    bool called() const { return called_.load(std::memory_order_relaxed) != 0; }

    // Runs work(), in which this thread may share loops; one thread leads at a time. No loop may wait for tasks of
    // oneTBB's: a helper in such a wait could take up another helper's task, and would be there until the leader has
    // finished.
    template <class Work>
    void lead(const Work& work) {
        List list(*this);
        work();
    }

    // Inside lead: calls loop(place) here (place 0) and in up to `helpers` other threads (places from 1 on, mostly the
    // same ones again), which divide its work among themselves, and returns once all have returned. One that finds
    // nothing to do is not alone in it: then no more join. What one of them throws is thrown here.
    void share(size_t helpers, const Loop& loop);

private:
    // While there is one, helpers stay.
    struct List {
        explicit List(Team& t) : team(t) { team.leading_ = true; }
        ~List() { team.dismiss(); }
        Team& team;
    };

    // What a helper's task is: with a name, for tests/tsan.supp.
    struct Helper {
        Team* team;
        void operator()() const;
    };

    // Loops are numbered: a round is a loop's, or one without a loop, in which helpers see whether they may go. The
    // round, the places that are free in its loop, and the helpers at work in it are one word: every change of a cache
    // line that another thread waits for takes a tenth of a microsecond.
    static constexpr uint64_t kHelper = 1, kPlace = uint64_t{1} << 16, kRound = uint64_t{1} << 32;
    static uint64_t roundOf(uint64_t state) { return state / kRound; }
    static uint64_t placesOf(uint64_t state) { return state % kRound / kPlace; }
    static uint64_t helpersOf(uint64_t state) { return state % kPlace; }

    void call(size_t helpers);
    void dismiss();
    void nextRound(uint64_t places);
    void follow();
    bool join(uint64_t state);
    void leave();
    bool await(uint64_t round) const;
    void run(size_t place);

    tbb::task_arena arena_;
    tbb::task_group helpers_;
    const size_t threads_;
    std::atomic<size_t> called_ = 0;  // helpers that are on their way or here
    std::atomic<bool> leading_ = false;
    std::atomic<int> rounds_ = 0;  // the round's low bits: where helpers sleep, which the system does with four bytes

    alignas(64) std::atomic<uint64_t> state_ = 0;
    const Loop* loop_ = nullptr;  // of the round; changes while none is at work and no place is free

    alignas(64) tbb::spin_mutex failing_;
    std::exception_ptr failed_;  // what a loop threw
};

}  // namespace v1
}  // namespace vkmoe
