// Residents: the pages in memory, and which of them goes next.
//
// The victim is the one of least worth, the highest number among equals, as if every resident page were asked; each
// group's candidate is kept until its order changes, so that finding one costs groups + one group's pages.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "host/page_groups.h"
#include "host/residency.h"

namespace vkmoe {
inline namespace v1 {

class Residents {
public:
    explicit Residents(std::span<const uint32_t> group_sizes);

    uint32_t size() const { return size_; }
    bool has(PageId page) const { return place_[page] != kAbsent; }

    void insert(PageId page);  // it must be absent
    void erase(PageId page);   // it must be there

    // A pinned page is no victim. Pins are not counted.
    void pin(PageId page, bool pinned);
    bool pinned(PageId page) const { return pinned_[page] != 0; }

    // To be called after each Residency::visit.
    void visited(uint32_t group) { stale_[group] = 1; }

    // None: every resident page is pinned.
    std::optional<PageId> victim(const Residency& residency);

private:
    static constexpr uint32_t kAbsent = ~0u;
    static constexpr PageId kNone = ~0u;

    void findLeast(uint32_t group, const Residency& residency);

    PageGroups groups_;
    std::vector<std::vector<PageId>> members_;  // by group, in no order
    std::vector<uint32_t> place_;               // by page: where in members_, or kAbsent
    std::vector<uint8_t> pinned_;
    std::vector<PageId> least_;   // by group: the unpinned member of least worth, or kNone
    std::vector<uint8_t> stale_;  // by group: least_ must be found again
    uint64_t order_ = 0;
    uint32_t size_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
