// Policy::automatic: each of the others runs beside the one that decides, over page numbers instead of pages, and the
// one with the fewest misses lately decides. It must lead by a margin, so that two good ones do not take turns.
#include <array>

#include "host/residency_policies.h"
#include "host/residents.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr double kForget = 0.97;  // per pass: half after 23 of them
constexpr double kMargin = 0.02;  // of the misses

// A policy and the pages that it would have in memory.
struct Ghost {
    Ghost(Policy policy, std::span<const uint32_t> group_sizes, uint32_t slots_)
        : residency(Residency::create(policy, group_sizes, slots_)), residents(group_sizes), slots(slots_) {}

    void visit(uint32_t group, std::span<const PageId> pages) {
        residency->visit(group, pages);
        residents.visited(group);
        for (PageId page : pages) residents.pin(page, true);
        for (PageId page : pages) bring(page);
        for (PageId page : pages) residents.pin(page, false);
    }

    void bring(PageId page) {
        if (residents.has(page)) return;
        misses += 1;
        if (residents.size() == slots) {
            std::optional<PageId> victim = residents.victim(*residency);
            if (!victim) return;  // more pages than slots
            residents.erase(*victim);
        }
        residents.insert(page);
    }

    std::unique_ptr<Residency> residency;
    Residents residents;
    uint32_t slots;
    double misses = 0;  // lately
};

class FewestMisses final : public Residency {
public:
    FewestMisses(std::span<const uint32_t> group_sizes, uint32_t slots)
        : slack_(4 + slots / 64.0),
          ghosts_{Ghost(Policy::expected, group_sizes, slots), Ghost(Policy::lfu, group_sizes, slots),
                  Ghost(Policy::lru, group_sizes, slots), Ghost(Policy::fixed, group_sizes, slots)} {}

    void visit(uint32_t group, std::span<const PageId> pages) override {
        for (Ghost& ghost : ghosts_) ghost.visit(group, pages);
        if (group <= now_) decide();
        now_ = group;
    }

    double worth(PageId page) const override { return decider().worth(page); }
    double likely(PageId page) const override { return ghosts_[0].residency->likely(page); }
    uint64_t order() const override { return switches_ + decider().order(); }
    Policy decides() const override { return decider().decides(); }

private:
    const Residency& decider() const { return *ghosts_[decider_].residency; }

    void decide() {
        size_t best = 0;
        for (size_t i = 1; i < ghosts_.size(); i++)
            if (ghosts_[i].misses < ghosts_[best].misses) best = i;
        if (ghosts_[best].misses * (1 + kMargin) + slack_ < ghosts_[decider_].misses) {
            decider_ = best;
            switches_ += uint64_t{1} << 32;
        }
        for (Ghost& ghost : ghosts_) ghost.misses *= kForget;
    }

    double slack_;                 // misses
    std::array<Ghost, 4> ghosts_;  // the first is `expected`, which measures
    size_t decider_ = 0;
    uint64_t switches_ = 0;
    uint32_t now_ = 0;
};

}  // namespace

std::unique_ptr<Residency> fewestMisses(std::span<const uint32_t> group_sizes, uint32_t slots) {
    return std::make_unique<FewestMisses>(group_sizes, slots);
}

}  // namespace v1
}  // namespace vkmoe
