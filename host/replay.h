// replay: what a policy would have done with a recorded history.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "host/residency.h"

namespace vkmoe {
inline namespace v1 {

// What a replay takes bytes and visits to cost; a rate of 0 means that it takes no time.
struct ReplayCosts {
    double read_bytes_per_second = 0;  // from the file to RAM
    double copy_bytes_per_second = 0;  // from RAM to where kernels read it
    double seconds_per_visit = 0;      // without a miss
};

// A history with what it takes to replay it.
struct Trace {
    std::vector<uint32_t> pages;       // by group: how many
    std::vector<uint64_t> page_bytes;  // by group: of one page
    ReplayCosts costs;
    std::vector<Visit> visits;

    uint64_t allPages() const;
    uint64_t largestPage() const;  // bytes; a slot has room for any page
};

struct Replay {
    uint64_t hits = 0;
    uint64_t misses = 0;  // first uses included
    uint64_t bytes = 0;   // brought by misses
    double seconds = 0;   // predicted: visits, and each miss read, then copied

    double hitRate() const;  // of all uses; 1 without any
};

// Runs `visits` with memory for `slots` pages (at least 1). What a visit uses is pinned meanwhile; more pages than
// slots are used in waves, those in memory first.
Replay replay(const Trace& trace, Residency& residency, uint32_t slots);

// Belady's optimum (where a visit's pages fit at once; in waves others may do better), with `slots` shared by all
// groups, or, apart, divided among the groups as evenly as can be.
Replay replayBelady(const Trace& trace, uint32_t slots);
Replay replayBeladyApart(const Trace& trace, uint32_t slots);

}  // namespace v1
}  // namespace vkmoe
