// Paging: expert weights in memory of given sizes, the rest in the file until it is needed. Results have the bits they
// have without.
//
//     auto stack = vkmoe::Stack::open(*engine, "model.safetensors", {.device_budget = 192 << 20, .host_budget = 768 <<
//     20}); auto result = stack->forward(tokens); result->paging->counters.tier3;  // uses of an expert that had to be
//     read
#pragma once

#include <optional>
#include <vector>

#include "host/pager.h"
#include "host/probe_bandwidth.h"

namespace vkmoe {
inline namespace v1 {

// Whether an expert whose page device memory does not hold is computed on the CPU, while the device works: same bits.
enum class HostCompute {
    automatic,  // on GPUs with tiered placement, where that is faster as far as measured
    never,
    always,  // every one of them, as far as pages move: a stack that is all in memory runs on the device alone
};

// An expert of a stack or a language model; of a layer alone, layer 0's.
struct ExpertId {
    uint32_t layer = 0, expert = 0;
};

struct PagingOptions {
    // Bytes of expert pages in device memory (tier 1) and in host memory that the device reads (tier 2). Not given: as
    // many as all pages take, on the host at most half of the machine's memory (or its control group's). Never more
    // than four fifths of what is free: activations need the rest.
    std::optional<uint64_t> device_budget, host_budget;
    Policy policy = Policy::automatic;
    // With Policy::fixed: who stays in memory once used, as far down the list as memory reaches; none: the most
    // frequently used. Errors: bad_input for one that is no expert, or with another policy.
    std::vector<ExpertId> pinned = {};
    Placement placement = Placement::automatic;  // automatic with a policy other than automatic: tiered;
                                                 // with that one, flat on a GPU that reads the host's memory as fast
    HostCompute host_compute = HostCompute::automatic;  // means nothing on the CPU, which reads pages in place
    // What the device reads a second, for automatic choices; not given: measured at opening where a GPU has a choice.
    std::optional<MemorySpeeds> speeds;
    bool prefetch = true;  // read what the next layer's router would choose, or history makes likely, while it pays
    uint32_t readers = 3;  // threads that read files
    bool trace = false;    // keep the history of a call's uses (PagingReport::visits)
    // Told pages read and all while everything is read at opening; false cancels.
    std::function<bool(uint64_t done, uint64_t all)> progress = {};
};

// What a call did.
struct PagingReport {
    PagerCounters counters;             // of this call
    Policy policy = Policy::automatic;  // that decided last
    bool all_resident = false;          // everything was in memory: nothing was read
    uint64_t opening_bytes = 0;         // read at opening, when everything fits
    uint64_t pages = 0;                 // of all layers
    uint64_t page_bytes = 0, device_slots = 0, host_slots = 0;
    bool transfer_queue = false;  // pages moved to device memory beside other work, on a queue of their own
    double read_seconds = 0;      // that reads were under way
    std::vector<int8_t> tiers;    // [pages] where each page is now: 0, 1, or -1 for the file
    std::vector<Visit> visits;    // with PagingOptions::trace
};

}  // namespace v1
}  // namespace vkmoe
