#include "host/residency.h"

#include <array>
#include <cassert>
#include <limits>

#include "host/residency_policies.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr std::array<const char*, 5> kNames = {"auto", "lru", "lfu", "expected", "static"};

class Belady final : public Residency {
public:
    Belady(PageGroups groups, std::span<const Visit> visits) : groups_(std::move(groups)), first_(groups_.pages() + 1) {
        for (const Visit& visit : visits)
            for (PageId page : visit.pages) first_[page + 1]++;
        for (PageId page = 0; page < groups_.pages(); page++) first_[page + 1] += first_[page];
        uses_.resize(first_.back());
        next_.assign(first_.begin(), first_.end() - 1);
        for (size_t i = 0; i < visits.size(); i++)
            for (PageId page : visits[i].pages) uses_[next_[page]++] = i;
        next_.assign(first_.begin(), first_.end() - 1);
    }

    void visit(uint32_t, std::span<const PageId> pages) override {
        for (PageId page : pages) {
            assert(next_[page] < first_[page + 1]);
            next_[page]++;
        }
    }

    double worth(PageId page) const override {
        if (next_[page] == first_[page + 1]) return -std::numeric_limits<double>::infinity();
        return -static_cast<double>(uses_[next_[page]]);
    }

    Policy decides() const override { return Policy::fixed; }

private:
    PageGroups groups_;
    std::vector<size_t> first_;  // [pages + 1]: where a page's uses begin
    std::vector<size_t> uses_;   // the visits that use it, in order
    std::vector<size_t> next_;   // its first use still to come
};

}  // namespace

const char* name(Policy policy) { return kNames[static_cast<size_t>(policy)]; }

Result<Policy> policyNamed(const std::string& name) {
    for (size_t i = 0; i < kNames.size(); i++)
        if (name == kNames[i]) return static_cast<Policy>(i);
    return Error{ErrorCode::bad_input, "policy \"" + name + "\" is none of auto, lru, lfu, expected, static"};
}

std::unique_ptr<Residency> Residency::create(Policy policy, std::span<const uint32_t> group_sizes, uint32_t slots) {
    assert(!group_sizes.empty());
    PageGroups groups(group_sizes);
    switch (policy) {
        case Policy::automatic:
            return fewestMisses(group_sizes, slots);
        case Policy::lru:
            return leastRecent(groups);
        case Policy::lfu:
            return leastFrequent(groups);
        case Policy::expected:
            return longestExpected(groups);
        case Policy::fixed:
            return placedOnce(groups, slots);
    }
    return nullptr;
}

std::unique_ptr<Residency> Residency::belady(std::span<const uint32_t> group_sizes, std::span<const Visit> visits) {
    return std::make_unique<Belady>(PageGroups(group_sizes), visits);
}

}  // namespace v1
}  // namespace vkmoe
