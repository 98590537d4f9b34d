// Residency: which pages are worth their memory. Pure policy: visits in, worths out; it knows no devices, threads or
// clocks, and the same visits give the same worths.
//
// Pages belong to groups (a layer's experts), numbered through: group 0's pages first. A pass visits the groups in
// order 0, 1, 2, ..., and the next pass begins at 0 again (a group may be left out).
//
//     residency->visit(group, used);                      // before the missing ones are brought
//     victim = the resident, unpinned page of least worth // ties: the highest number goes
//
// `Residents` (host/residents.h) keeps the resident pages and finds that victim without asking about each of them.
//
// A visit that uses more than half of its group is a scan (a prompt, say): what it uses once does not count as used
// regularly.
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
    automatic,  // whichever of the others misses least (each is simulated beside the one that decides)
    lru,        // least recently used; a first use counts as one a pass ago, a scan not at all
    lfu,        // least frequently used, counts age slowly; what its group's last visit used stays until the next one
    expected,   // longest expected time to the next use, from measured frequency, repetition and the groups' order
    fixed,      // static: chosen pages keep their places, the rest pass through a few slots; pins, or by frequency
};
const char* name(Policy policy);                      // "auto", "lru", "lfu", "expected", "static"
Result<Policy> policyNamed(const std::string& name);  // bad_input: the sentence lists the names

// A recorded history: visits in order.
struct Visit {
    uint32_t group = 0;
    std::vector<PageId> pages;  // used, each once
};

// The most that a history keeps of a long run: a million, from its beginning.
inline constexpr size_t kMostVisits = size_t{1} << 20;
inline void addVisit(std::vector<Visit>& history, Visit visit) {
    if (history.size() < kMostVisits) history.push_back(std::move(visit));
}

class Residency {
public:
    // For pages in groups of these sizes (at least one group) and memory for `slots` of them. The first passes are all
    // guesses; automatic and expected begin as `expected` does.
    static std::unique_ptr<Residency> create(Policy policy, std::span<const uint32_t> group_sizes, uint32_t slots);
    // Knows the future: evicts what is used again last. For replays; its visits must be those of `visits`.
    static std::unique_ptr<Residency> belady(std::span<const uint32_t> group_sizes, std::span<const Visit> visits);

    virtual ~Residency() = default;

    // Group `group` uses these pages now (each once, all of the group).
    virtual void visit(uint32_t group, std::span<const PageId> pages) = 0;

    // How much it is worth to keep the page from now on; comparable between pages at one time only.
    virtual double worth(PageId page) const = 0;

    // How likely the next visit of the page's group uses it, as far as that is measured; 0 where it is not.
    virtual double likely(PageId) const { return 0; }

    // The order of worth among the pages of one group changes only when that group is visited or this number changes.
    virtual uint64_t order() const { return 0; }

    // Pages to keep whatever happens (Policy::fixed: in place of frequency, from the first on as far as memory
    // reaches); others ignore it.
    virtual void pin(std::span<const PageId>) {}

    // The policy that decides now; Policy::automatic changes it.
    virtual Policy decides() const = 0;
};

}  // namespace v1
}  // namespace vkmoe
