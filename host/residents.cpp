#include "host/residents.h"

#include <algorithm>
#include <cassert>

namespace vkmoe {
inline namespace v1 {

Residents::Residents(std::span<const uint32_t> group_sizes)
    : groups_(group_sizes),
      members_(groups_.count()),
      place_(groups_.pages(), kAbsent),
      pinned_(groups_.pages(), 0),
      least_(groups_.count(), kNone),
      stale_(groups_.count(), 0) {}

void Residents::insert(PageId page) {
    assert(!has(page));
    std::vector<PageId>& members = members_[groups_.of(page)];
    place_[page] = static_cast<uint32_t>(members.size());
    members.push_back(page);
    stale_[groups_.of(page)] = 1;
    size_++;
}

void Residents::erase(PageId page) {
    assert(has(page));
    uint32_t group = groups_.of(page);
    std::vector<PageId>& members = members_[group];
    PageId moved = members.back();
    members[place_[page]] = moved;
    place_[moved] = place_[page];
    members.pop_back();
    place_[page] = kAbsent;
    if (least_[group] == page) stale_[group] = 1;
    size_--;
}

void Residents::pin(PageId page, bool pinned) {
    pinned_[page] = pinned ? 1 : 0;
    if (!pinned || least_[groups_.of(page)] == page) stale_[groups_.of(page)] = 1;
}

void Residents::findLeast(uint32_t group, const Residency& residency) {
    least_[group] = kNone;
    stale_[group] = 0;
    double least = 0;
    for (PageId page : members_[group]) {
        if (pinned_[page]) continue;
        double worth = residency.worth(page);
        if (least_[group] != kNone && (worth > least || (worth == least && page < least_[group]))) continue;
        least_[group] = page;
        least = worth;
    }
}

std::optional<PageId> Residents::victim(const Residency& residency) {
    if (order_ != residency.order()) std::fill(stale_.begin(), stale_.end(), uint8_t{1});
    order_ = residency.order();
    std::optional<PageId> victim;
    double least = 0;
    for (uint32_t group = 0; group < groups_.count(); group++) {
        if (stale_[group]) findLeast(group, residency);
        if (least_[group] == kNone) continue;
        double worth = residency.worth(least_[group]);
        if (victim && worth > least) continue;  // among equals the later group has the higher numbers
        victim = least_[group];
        least = worth;
    }
    return victim;
}

}  // namespace v1
}  // namespace vkmoe
