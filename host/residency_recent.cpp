// Policies that look back: least recently and least frequently used.
#include "host/aged_counts.h"
#include "host/residency_policies.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Worth: the visit of the last use. A first use counts as one a pass ago, so that it pushes out nothing that every pass
// uses. What only scans have used comes below everything else.
class LeastRecent final : public Residency {
public:
    explicit LeastRecent(const PageGroups& groups)
        : groups_(groups), last_(groups.pages(), -2 * kLongAgo), used_(groups.pages(), 0) {}

    void visit(uint32_t group, std::span<const PageId> pages) override {
        now_ += 1;
        bool scans = groups_.scans(group, pages.size());
        for (PageId page : pages) {
            if (!scans)
                last_[page] = used_[page] ? now_ : now_ - groups_.count();
            else if (!used_[page])
                last_[page] = now_ - kLongAgo;
            if (!scans) used_[page] = 1;
        }
    }

    double worth(PageId page) const override { return last_[page]; }
    Policy decides() const override { return Policy::lru; }

private:
    static constexpr double kLongAgo = 1e15;

    PageGroups groups_;
    std::vector<double> last_;
    std::vector<uint8_t> used_;  // by a visit that was no scan
    double now_ = 0;
};

// Worth: the aged count; what its group's last visit used (scans aside) comes above all else.
class LeastFrequent final : public Residency {
public:
    explicit LeastFrequent(const PageGroups& groups)
        : groups_(groups), counts_(groups), bonus_(groups.pages(), 0), last_(groups.count()) {}

    void visit(uint32_t group, std::span<const PageId> pages) override {
        counts_.visit(groups_, group, pages);
        if (groups_.scans(group, pages.size())) return;
        for (PageId page : last_[group]) bonus_[page] = 0;
        last_[group].assign(pages.begin(), pages.end());
        for (PageId page : pages) bonus_[page] = 1e6;
    }

    double worth(PageId page) const override { return counts_.of(page) + bonus_[page]; }
    Policy decides() const override { return Policy::lfu; }

private:
    PageGroups groups_;
    AgedCounts counts_;
    std::vector<double> bonus_;
    std::vector<std::vector<PageId>> last_;  // by group: what its last visit used
};

}  // namespace

std::unique_ptr<Residency> leastRecent(const PageGroups& groups) { return std::make_unique<LeastRecent>(groups); }
std::unique_ptr<Residency> leastFrequent(const PageGroups& groups) { return std::make_unique<LeastFrequent>(groups); }

}  // namespace v1
}  // namespace vkmoe
