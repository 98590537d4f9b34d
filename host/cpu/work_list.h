// WorkList: what lies between two barriers, as one loop that threads take ranges of.
//
// Pieces of work need not wait for each other: dispatches of one workgroup each keep all threads busy as one long
// dispatch does. Ranges are long: inside one a kernel uses again what neighbouring workgroups share (rows, weights); in
// a long loop short ones at the end keep all threads busy. Every other thread begins at the end: what a thread had in
// its caches the last time, it is then likely to get again.
#pragma once

#include <tbb/spin_mutex.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace vkmoe {
inline namespace v1 {

class WorkList {
public:
    using Run = std::function<void(uint64_t begin, uint64_t end)>;

    // For how many threads ranges are cut.
    void divide(size_t threads) { threads_ = threads; }

    // Adds run(begin, end) for ranges that make up [0, groups). `group_seconds` is what a group takes one thread (0:
    // not known), and learns what it took: more at once, less by and by, for some dispatches that look alike are not.
    void add(uint64_t groups, double& group_seconds, Run run);

    // What one thread would take for all that is left, and how many groups that are. (runHere leaves it as it was.)
    double seconds() const { return seconds_; }
    uint64_t left() const { return left_; }

    // Runs ranges until none is left; several threads call it at once. `from_end`: takes them there.
    void run(bool from_end);

    // Runs everything here, in the order in which it was added. With `learn` the groups are measured, all together: to
    // ask for the time takes as long as small pieces do.
    void runHere(bool learn);

    // Forgets everything.
    void clear();

private:
    struct Piece {
        uint64_t first, last;  // not handed out
        uint64_t unit;         // ranges begin at multiples of it
        bool known;            // what is expected is what was measured
        double expected;       // seconds of a group
        double* group_seconds;
        Run run;
        double seconds = 0;  // of the `done` groups
        uint64_t done = 0;

        void learn(double took);
    };
    struct Range {
        Piece* piece = nullptr;
        uint64_t begin = 0, end = 0;
        double until = 0;  // when it is thought to be done
    };

    double share(double now) const;  // seconds; the lock is held
    bool next(Range& range, double took, bool from_end, double now);
    void done(const Range& range, double took);  // the lock is held

    size_t threads_ = 1;
    tbb::spin_mutex mutex_;
    std::vector<Piece> pieces_;
    size_t front_ = 0, back_ = 0;  // pieces of which something is left are in [front_, back_)
    double seconds_ = 0;           // that the groups not handed out are thought to take
    size_t busy_ = 0;              // ranges that threads are at
    double busy_until_ = 0;        // the sum of when they are thought to be done
    uint64_t left_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
