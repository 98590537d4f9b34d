// Policy::fixed: a static split. Pages with places are worth more than all others, so the others pass through the slots
// that are left: as many as one visit has used at most. Without pins the most frequently used get places, chosen anew
// after 16, 32, 64, ... passes, which is ever more rarely; until then by frequency alone.
#include <algorithm>

#include "host/aged_counts.h"
#include "host/residency_policies.h"

namespace vkmoe {
inline namespace v1 {
namespace {

class PlacedOnce final : public Residency {
public:
    PlacedOnce(const PageGroups& groups, uint32_t slots)
        : groups_(groups), counts_(groups), placed_(groups.pages(), 0), slots_(slots) {}

    void visit(uint32_t group, std::span<const PageId> pages) override {
        counts_.visit(groups_, group, pages);
        if (!groups_.scans(group, pages.size())) passing_ = std::max(passing_, static_cast<uint32_t>(pages.size()));
        if (group <= now_) passes_++;
        now_ = group;
        if (pinned_ || passes_ < choose_at_) return;
        choose_at_ *= 2;
        placeByFrequency();
    }

    double worth(PageId page) const override { return placed_[page] + counts_.of(page); }
    uint64_t order() const override { return order_; }

    void pin(std::span<const PageId> pages) override {
        pinned_ = true;
        place(pages.first(std::min<size_t>(pages.size(), slots_)));
    }

    Policy decides() const override { return Policy::fixed; }

private:
    void placeByFrequency() {
        std::vector<PageId> pages(groups_.pages());
        for (PageId page = 0; page < groups_.pages(); page++) pages[page] = page;
        uint32_t passing = std::min(passing_, slots_ / 2);
        uint32_t places = std::min(slots_ - passing, groups_.pages());
        std::partial_sort(pages.begin(), pages.begin() + places, pages.end(),
                          [&](PageId a, PageId b) { return worth(a) != worth(b) ? worth(a) > worth(b) : a < b; });
        place(std::span(pages).first(places));
    }

    void place(std::span<const PageId> pages) {
        std::fill(placed_.begin(), placed_.end(), 0.0);
        for (PageId page : pages) placed_[page] = 1e6;
        order_++;
    }

    PageGroups groups_;
    AgedCounts counts_;
    std::vector<double> placed_;
    uint32_t slots_, passing_ = 1, now_ = 0, passes_ = 0, choose_at_ = 16;
    uint64_t order_ = 0;
    bool pinned_ = false;
};

}  // namespace

std::unique_ptr<Residency> placedOnce(const PageGroups& groups, uint32_t slots) {
    return std::make_unique<PlacedOnce>(groups, slots);
}

}  // namespace v1
}  // namespace vkmoe
