// AgedCounts: how often each page was used, as its group's visits go; older visits count less. A scan counts by how
// much it leaves out, since using everything tells nothing.
#pragma once

#include <algorithm>
#include <vector>

#include "host/page_groups.h"

namespace vkmoe {
inline namespace v1 {

inline constexpr double kAging = 0.999;  // per visit of the group: half after 693 of them

inline double visitWeight(const PageGroups& groups, uint32_t group, size_t used) {
    double share = static_cast<double>(used) / std::max(groups.size(group), 1u);
    return std::min(1.0, 2 * (1 - share));
}

class AgedCounts {
public:
    explicit AgedCounts(const PageGroups& groups) : counts_(groups.pages(), 0.0) {}

    void visit(const PageGroups& groups, uint32_t group, std::span<const PageId> pages) {
        for (PageId page = groups.first(group); page < groups.end(group); page++) counts_[page] *= kAging;
        double weight = visitWeight(groups, group, pages.size());
        for (PageId page : pages) counts_[page] += weight;
    }

    double of(PageId page) const { return counts_[page]; }  // below 1,000

private:
    std::vector<double> counts_;
};

}  // namespace v1
}  // namespace vkmoe
