// The policies one by one; Residency::create makes them.
#pragma once

#include "host/page_groups.h"
#include "host/residency.h"

namespace vkmoe {
inline namespace v1 {

std::unique_ptr<Residency> leastRecent(const PageGroups& groups);
std::unique_ptr<Residency> leastFrequent(const PageGroups& groups);
std::unique_ptr<Residency> longestExpected(const PageGroups& groups);
std::unique_ptr<Residency> placedOnce(const PageGroups& groups, uint32_t slots);
std::unique_ptr<Residency> fewestMisses(std::span<const uint32_t> group_sizes, uint32_t slots);

}  // namespace v1
}  // namespace vkmoe
