// Team: threads that work on one loop after another with the thread that leads them.
//
// A step of a small model is dozens of loops of a few microseconds, and to start a loop on threads that wait for tasks
// takes as long as most of them. So helpers (tasks of oneTBB) are called once for a whole list of loops, as many as a
// loop has work for, and watch for the next one. The leader waits for none but those that work with it, and at the
// list's end for those that have begun: a helper that the system never runs costs nothing. Between loops helpers spin
// for some tens of microseconds, then they sleep.
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
    ~Team() noexcept {}  // task_group's could throw, which it does if nobody waited

    size_t threads() const { return threads_; }
    bool called() const { return called_ != 0; }  // there are helpers, who cost nothing more

    // Runs work(), in which this thread may share loops; one thread leads at a time. No loop may wait for tasks of
    // oneTBB's: a helper in such a wait could take up another helper's task, and would be there until the leader has
    // finished.
    template <class Work>
    void lead(const Work& work) {
        Ending ending(*this);
        work();
    }

    // Inside lead: calls loop(place) here (place 0) and in up to `helpers` other threads (places from 1 on, mostly the
    // same ones again), which divide its work among themselves, and returns once all have returned. One that finds
    // nothing to do is not alone in it: then no more join. What one of them throws is thrown here.
    void share(size_t helpers, const Loop& loop);

private:
    // Sends the helpers away, and waits until they have gone.
    struct Ending {
        explicit Ending(Team& t) : team(t) {}
        ~Ending() { team.dismiss(); }
        Team& team;
    };

    // What a helper's task is: with a name, for tests/tsan.supp.
    struct Helper {
        Team* team;
        void operator()() const;
    };

    void call(size_t helpers);
    void dismiss();
    void announce();
    void follow();
    const Loop* join();
    void run(const Loop& loop, size_t place);
    void await(int seen) const;

    tbb::task_arena arena_;
    tbb::task_group helpers_;
    const size_t threads_;
    size_t called_ = 0;  // helpers that are on their way or here

    alignas(64) std::atomic<int> round_ = 0;  // changes with every loop, and when the helpers may go
    std::atomic<bool> over_ = false;
    std::atomic<size_t> places_ = 0;   // for helpers in this loop
    std::atomic<size_t> helping_ = 0;  // helpers in this loop
    tbb::spin_mutex mutex_;            // of what follows
    const Loop* loop_ = nullptr;       // null: none may join
    std::exception_ptr failed_;
};

}  // namespace v1
}  // namespace vkmoe
