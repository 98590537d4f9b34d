// Residency: which pages are worth their memory. Pure policy: visits in, worths out; it knows no devices, threads or
// clocks, and the same visits give the same worths.
//
// Pages belong to groups (a layer's experts), numbered through: group 0's pages first. A pass visits the groups in
// order 0, 1, 2, ..., and the next pass begins at 0 again (a group may be left out).
//
//     residency->visit(group, used);                      // before the missing ones are brought
//     victim = the resident, unpinned page of least worth // ties: the highest number goes
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

using PageId = uint32_t;

enum class Policy {
    automatic,  // whichever of the others has missed least so far (each is simulated beside the one that decides)
    lru,        // least recently used, resistant to scans
    lfu,        // least frequently used, counts age
    expected,   // longest expected time to the next use, from measured frequency, repetition and the groups' order
    fixed,      // static: pages keep their places once memory is full; given pins, else by frequency
};
const char* name(Policy policy);                      // "auto", "lru", "lfu", "expected", "static"
Result<Policy> policyNamed(const std::string& name);  // bad_input: the sentence lists the names

// A recorded history: visits in order.
struct Visit {
    uint32_t group = 0;
    std::vector<PageId> pages;  // used, each once
};

class Residency {
public:
    // For pages in groups of these sizes and memory for `slots` of them.
    static std::unique_ptr<Residency> create(Policy policy, std::span<const uint32_t> group_sizes, uint32_t slots);
    // Knows the future: evicts what is used again last. For replays; its visits must be those of `visits`.
    static std::unique_ptr<Residency> belady(std::span<const uint32_t> group_sizes, std::span<const Visit> visits);

    virtual ~Residency() = default;

    // Group `group` uses these pages now (each once, all of the group).
    virtual void visit(uint32_t group, std::span<const PageId> pages) = 0;

    // How much it is worth to keep the page from now on; comparable between pages at one time only.
    virtual double worth(PageId page) const = 0;

    // Pages to keep whatever happens (Policy::fixed: in place of frequency); others ignore it.
    virtual void pin(std::span<const PageId>) {}

    // The policy that decides now; Policy::automatic changes it.
    virtual Policy decides() const = 0;
};

}  // namespace v1
}  // namespace vkmoe
