// Policy::expected: a page that its group's next visit uses with probability p, and the same afterwards, is used again
// after distance + groups * (1/p - 1) groups, distance being the groups from now to its own.
//
// p is measured. What the group's last visit did not use is used at its own rate q (aged, with a prior of a few visits
// at the group's mean). What it did use is used again with rho + (1 - rho) q, where rho, the share of uses that repeat
// the last visit's, is measured per group with the mean of all groups as its prior. Scans leave both alone, but for
// frequency as AgedCounts says.
#include <algorithm>
#include <cmath>

#include "host/aged_counts.h"
#include "host/residency_policies.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr double kPriorVisits = 4;
constexpr double kPriorRepeats = 32;
constexpr double kLeast = 1e-7;  // probability

// How often what the last visit used was used again, and how often frequency alone would have it.
struct Repeats {
    double chances = 0, again = 0, by_frequency = 0;

    void add(const Repeats& other) {
        chances += other.chances;
        again += other.again;
        by_frequency += other.by_frequency;
    }
    void age() {
        chances *= kAging;
        again *= kAging;
        by_frequency *= kAging;
    }
};

class LongestExpected final : public Residency {
public:
    explicit LongestExpected(const PageGroups& groups)
        : groups_(groups),
          fresh_(groups.pages(), 0),
          visits_(groups.pages(), 0),
          wait_(groups.pages(), groups.count() / kLeast),
          in_last_(groups.pages(), 0),
          last_(groups.count()),
          repeats_(groups.count()) {}

    void visit(uint32_t group, std::span<const PageId> pages) override {
        if (group <= now_) all_.age();
        now_ = group;
        bool scans = groups_.scans(group, pages.size());
        if (!scans) countRepeats(group, pages);
        countFresh(group, pages);
        if (!scans) replaceLast(group, pages);
        predict(group);
    }

    double worth(PageId page) const override {
        uint32_t group = groups_.of(page);
        return -(wait_[page] + (group > now_ ? group - now_ : group + groups_.count() - now_));
    }

    // p, of which the wait was made.
    double likely(PageId page) const override { return 1 / (1 + wait_[page] / groups_.count()); }

    Policy decides() const override { return Policy::expected; }

private:
    double rate(PageId page, double mean) const {
        return (fresh_[page] + kPriorVisits * mean) / (visits_[page] + kPriorVisits);
    }

    double meanRate(uint32_t group) const {
        double fresh = 0.5, visits = groups_.size(group);
        for (PageId page = groups_.first(group); page < groups_.end(group); page++) {
            fresh += fresh_[page];
            visits += visits_[page];
        }
        return fresh / std::max(visits, 1.0);
    }

    void countRepeats(uint32_t group, std::span<const PageId> pages) {
        Repeats seen;
        double mean = meanRate(group);
        for (PageId page : last_[group]) seen.by_frequency += rate(page, mean);
        seen.chances = static_cast<double>(last_[group].size());
        for (PageId page : pages) seen.again += in_last_[page];
        repeats_[group].age();
        repeats_[group].add(seen);
        all_.add(seen);
    }

    void countFresh(uint32_t group, std::span<const PageId> pages) {
        double weight = visitWeight(groups_, group, pages.size());
        for (PageId page = groups_.first(group); page < groups_.end(group); page++) {
            fresh_[page] *= kAging;
            visits_[page] = visits_[page] * kAging + (in_last_[page] ? 0 : weight);
        }
        for (PageId page : pages)
            if (!in_last_[page]) fresh_[page] += weight;
    }

    void replaceLast(uint32_t group, std::span<const PageId> pages) {
        for (PageId page : last_[group]) in_last_[page] = 0;
        last_[group].assign(pages.begin(), pages.end());
        for (PageId page : pages) in_last_[page] = 1;
    }

    // The share of uses that repeat, 0 to 1: (again - by frequency) of (chances - by frequency).
    double repetition(uint32_t group) const {
        auto share = [](const Repeats& r, double prior, double weight) {
            double chances = std::max(r.chances - r.by_frequency, 0.0);
            return std::clamp((r.again - r.by_frequency + prior * weight) / (chances + weight), 0.0, 1.0);
        };
        return share(repeats_[group], share(all_, 0.5, 4), kPriorRepeats);
    }

    void predict(uint32_t group) {
        double mean = meanRate(group), rho = repetition(group), groups = groups_.count();
        for (PageId page = groups_.first(group); page < groups_.end(group); page++) {
            double p = std::clamp(rate(page, mean), kLeast, 1.0);
            if (in_last_[page]) p = std::min(rho + (1 - rho) * p, 1.0);
            // In 1/1024 of a group: adding the distance is then exact, and never changes the order within the group.
            wait_[page] = std::round(groups * (1 / p - 1) * 1024) / 1024;
        }
    }

    PageGroups groups_;
    std::vector<double> fresh_;              // aged count of uses that the group's visit before had not
    std::vector<double> visits_;             // aged count of visits at which that could have been
    std::vector<double> wait_;               // expected groups from the group's next visit to the page's next use
    std::vector<uint8_t> in_last_;           // whether the group's last visit used it
    std::vector<std::vector<PageId>> last_;  // by group: what its last visit used
    std::vector<Repeats> repeats_;           // by group
    Repeats all_;
    uint32_t now_ = 0;
};

}  // namespace

std::unique_ptr<Residency> longestExpected(const PageGroups& groups) {
    return std::make_unique<LongestExpected>(groups);
}

}  // namespace v1
}  // namespace vkmoe
