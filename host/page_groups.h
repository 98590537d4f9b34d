// PageGroups: which pages make up which group.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "host/residency.h"

namespace vkmoe {
inline namespace v1 {

class PageGroups {
public:
    explicit PageGroups(std::span<const uint32_t> sizes) : first_(1, 0) {
        for (uint32_t size : sizes) {
            group_of_.insert(group_of_.end(), size, static_cast<uint32_t>(first_.size() - 1));
            first_.push_back(first_.back() + size);
        }
    }

    uint32_t count() const { return static_cast<uint32_t>(first_.size() - 1); }
    uint32_t pages() const { return first_.back(); }
    uint32_t of(PageId page) const { return group_of_[page]; }
    PageId first(uint32_t group) const { return first_[group]; }
    PageId end(uint32_t group) const { return first_[group + 1]; }
    uint32_t size(uint32_t group) const { return end(group) - first(group); }

    // body(group, its pages) for each group of these pages, which are sorted.
    template <class Body>
    void split(std::span<const PageId> sorted, const Body& body) const {
        for (size_t i = 0, j = 0; i < sorted.size(); i = j) {
            const uint32_t group = of(sorted[i]);
            while (j < sorted.size() && of(sorted[j]) == group) ++j;
            body(group, sorted.subspan(i, j - i));
        }
    }

    bool scans(uint32_t group, size_t used) const { return 2 * used > size(group); }

private:
    std::vector<PageId> first_;  // [groups + 1]
    std::vector<uint32_t> group_of_;
};

}  // namespace v1
}  // namespace vkmoe
