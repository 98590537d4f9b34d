// Policies as one would write them without any hurry: from the whole history, at every question.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <vector>

#include "host/residency.h"

namespace test {

using vkmoe::PageId;
using vkmoe::Visit;

struct History {
    std::vector<uint32_t> sizes;
    std::vector<Visit> visits;

    PageId first(uint32_t group) const {
        PageId page = 0;
        for (uint32_t g = 0; g < group; ++g) page += sizes[g];
        return page;
    }
    uint32_t groupOf(PageId page) const {
        uint32_t group = 0;
        while (page >= first(group) + sizes[group]) ++group;
        return group;
    }
    PageId pages() const { return first(uint32_t(sizes.size())); }
    bool scan(const Visit& visit) const { return 2 * visit.pages.size() > sizes[visit.group]; }
    static bool uses(const Visit& visit, PageId page) {
        return std::find(visit.pages.begin(), visit.pages.end(), page) != visit.pages.end();
    }
};

inline double naiveLru(const History& history, PageId page) {
    double last_use = 0, last_scan = 0;
    int uses = 0;
    for (size_t i = 0; i < history.visits.size(); ++i) {
        if (!History::uses(history.visits[i], page)) continue;
        (history.scan(history.visits[i]) ? last_scan : last_use) = double(i + 1);
        if (!history.scan(history.visits[i])) ++uses;
    }
    if (uses >= 2) return last_use;
    if (uses == 1) return last_use - double(history.sizes.size());
    return last_scan > 0 ? last_scan - 1e15 : -2e15;
}

inline double naiveCount(const History& history, PageId page) {
    double count = 0;
    for (const Visit& visit : history.visits) {
        if (visit.group != history.groupOf(page)) continue;
        double left_out = 1 - double(visit.pages.size()) / history.sizes[visit.group];
        count *= 0.999;
        if (History::uses(visit, page)) count += std::min(1.0, 2 * left_out);
    }
    return count;
}

inline double naiveLfu(const History& history, PageId page) {
    bool in_last = false;
    for (const Visit& visit : history.visits)
        if (visit.group == history.groupOf(page) && !history.scan(visit)) in_last = History::uses(visit, page);
    return naiveCount(history, page) + (in_last ? 1e6 : 0);
}

// What is measured of a group, over its visits.
struct NaiveRates {
    std::vector<double> fresh, chances;  // by page of the group
    std::set<PageId> last;

    double mean() const {
        double used = 0.5, seen = double(fresh.size());
        for (size_t i = 0; i < fresh.size(); ++i) used += fresh[i], seen += chances[i];
        return used / seen;
    }
    double rate(size_t i) const { return (fresh[i] + 4 * mean()) / (chances[i] + 4); }
};

struct NaiveRepeats {
    double chances = 0, again = 0, by_frequency = 0;
    void age() { chances *= 0.999, again *= 0.999, by_frequency *= 0.999; }
    double share(double prior, double weight) const {
        double room = std::max(chances - by_frequency, 0.0);
        return std::clamp((again - by_frequency + prior * weight) / (room + weight), 0.0, 1.0);
    }
};

inline double naiveExpected(const History& history, PageId page) {
    size_t groups = history.sizes.size();
    std::vector<NaiveRates> rates(groups);
    std::vector<NaiveRepeats> repeats(groups);
    NaiveRepeats all;
    for (size_t g = 0; g < groups; ++g)
        rates[g].fresh.resize(history.sizes[g]), rates[g].chances.resize(history.sizes[g]);
    uint32_t now = 0;
    double wait = double(groups) * 1e7;
    for (const Visit& visit : history.visits) {
        NaiveRates& r = rates[visit.group];
        PageId first = history.first(visit.group);
        double weight = std::min(1.0, 2 * (1 - double(visit.pages.size()) / history.sizes[visit.group]));
        if (visit.group <= now) all.age();
        now = visit.group;
        if (!history.scan(visit)) {
            NaiveRepeats seen;
            seen.chances = double(r.last.size());
            for (PageId p : r.last) seen.by_frequency += r.rate(p - first), seen.again += History::uses(visit, p);
            for (NaiveRepeats* to : {&repeats[visit.group], &all}) {
                if (to != &all) to->age();
                to->chances += seen.chances, to->again += seen.again, to->by_frequency += seen.by_frequency;
            }
        }
        for (size_t i = 0; i < r.fresh.size(); ++i) {
            bool in_last = r.last.count(first + PageId(i)) > 0;
            r.fresh[i] = r.fresh[i] * 0.999 + (!in_last && History::uses(visit, first + PageId(i)) ? weight : 0);
            r.chances[i] = r.chances[i] * 0.999 + (in_last ? 0 : weight);
        }
        if (!history.scan(visit)) r.last = std::set<PageId>(visit.pages.begin(), visit.pages.end());
        if (visit.group != history.groupOf(page)) continue;
        double rho = repeats[visit.group].share(all.share(0.5, 4), 32), q = r.rate(page - first);
        double p = r.last.count(page) ? rho + (1 - rho) * q : q;
        wait = double(groups) * (1 / std::clamp(p, 1e-7, 1.0) - 1);
    }
    uint32_t group = history.groupOf(page);
    return -(wait + (group > now ? group - now : double(groups) - (now - group)));
}

// Pages with places after the history, for a static split that chooses after 16, 32, 64, ... passes.
inline std::set<PageId> naivePlaces(const History& history, uint32_t slots) {
    History so_far{history.sizes, {}};
    std::set<PageId> placed;
    uint32_t passes = 0, now = 0, choose_at = 16;
    size_t most = 1;
    for (const Visit& visit : history.visits) {
        so_far.visits.push_back(visit);
        if (!history.scan(visit)) most = std::max(most, visit.pages.size());
        if (visit.group <= now) ++passes;
        now = visit.group;
        if (passes < choose_at) continue;
        choose_at *= 2;
        auto worth = [&](PageId p) { return naiveCount(so_far, p) + (placed.count(p) ? 1e6 : 0); };
        std::vector<std::pair<double, PageId>> order;
        for (PageId p = 0; p < history.pages(); ++p) order.push_back({-worth(p), p});
        std::sort(order.begin(), order.end());
        size_t places = std::min<size_t>(slots - std::min<size_t>(most, slots / 2), order.size());
        placed.clear();
        for (size_t i = 0; i < places; ++i) placed.insert(order[i].second);
    }
    return placed;
}

// The victim among `resident` without `pinned`, asking about each.
inline std::optional<PageId> naiveVictim(const vkmoe::Residency& residency, const std::set<PageId>& resident,
                                         const std::set<PageId>& pinned) {
    std::optional<PageId> victim;
    for (PageId page : resident)
        if (!pinned.count(page) && (!victim || residency.worth(page) <= residency.worth(*victim))) victim = page;
    return victim;
}

// Misses of a policy over visits that each fit into the slots.
inline uint64_t naiveMisses(vkmoe::Residency& residency, const std::vector<Visit>& visits, uint32_t slots) {
    std::set<PageId> resident;
    uint64_t misses = 0;
    for (const Visit& visit : visits) {
        residency.visit(visit.group, visit.pages);
        std::set<PageId> pinned(visit.pages.begin(), visit.pages.end());
        for (PageId page : visit.pages) {
            if (resident.count(page)) continue;
            ++misses;
            if (resident.size() == slots) resident.erase(*naiveVictim(residency, resident, pinned));
            resident.insert(page);
        }
    }
    return misses;
}

// The fewest misses that any choice of victims has; at most 16 pages.
inline uint64_t fewestMisses(const std::vector<Visit>& visits, uint32_t pages, uint32_t slots) {
    constexpr uint64_t kNever = ~uint64_t{0} / 2;
    std::vector<uint64_t> best(size_t{1} << pages, kNever);
    best[0] = 0;
    for (const Visit& visit : visits) {
        std::vector<uint64_t> next(best.size(), kNever);
        uint32_t used = 0;
        for (PageId page : visit.pages) used |= 1u << page;
        for (uint32_t from = 0; from < best.size(); ++from) {
            if (best[from] == kNever) continue;
            uint64_t misses = best[from] + uint64_t(__builtin_popcount(used & ~from));
            for (uint32_t to = 0; to < best.size(); ++to)
                if ((to & used) == used && (to & ~(from | used)) == 0 && uint32_t(__builtin_popcount(to)) <= slots)
                    next[to] = std::min(next[to], misses);
        }
        best = next;
    }
    return *std::min_element(best.begin(), best.end());
}

}  // namespace test
