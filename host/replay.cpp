#include "host/replay.h"

#include <algorithm>
#include <cassert>

#include "host/residents.h"

namespace vkmoe {
inline namespace v1 {
namespace {

class Cache {
public:
    Cache(const Trace& trace, Residency& residency, uint32_t slots)
        : trace_(trace), residency_(residency), residents_(trace.pages), slots_(slots) {}

    void visit(const Visit& visit) {
        residency_.visit(visit.group, visit.pages);
        residents_.visited(visit.group);
        pages_ = visit.pages;
        std::stable_partition(pages_.begin(), pages_.end(), [&](PageId page) { return residents_.has(page); });
        for (size_t i = 0; i < pages_.size(); i += slots_)
            wave(visit.group, std::span(pages_).subspan(i, std::min<size_t>(slots_, pages_.size() - i)));
        result_.seconds += trace_.costs.seconds_per_visit;
    }

    const Replay& result() const { return result_; }

private:
    void wave(uint32_t group, std::span<const PageId> pages) {
        for (PageId page : pages) residents_.pin(page, true);
        for (PageId page : pages) {
            if (residents_.has(page))
                result_.hits++;
            else
                bring(group, page);
        }
        for (PageId page : pages) residents_.pin(page, false);
    }

    void bring(uint32_t group, PageId page) {
        if (residents_.size() == slots_) residents_.erase(*residents_.victim(residency_));
        residents_.insert(page);
        result_.misses++;
        uint64_t bytes = trace_.page_bytes[group];
        result_.bytes += bytes;
        for (double rate : {trace_.costs.read_bytes_per_second, trace_.costs.copy_bytes_per_second})
            if (rate > 0) result_.seconds += static_cast<double>(bytes) / rate;
    }

    const Trace& trace_;
    Residency& residency_;
    Residents residents_;
    uint32_t slots_;
    std::vector<PageId> pages_;
    Replay result_;
};

// The part of the history that one group sees.
Trace onlyGroup(const Trace& trace, uint32_t group) {
    Trace alone{.pages = trace.pages, .page_bytes = trace.page_bytes, .costs = trace.costs, .visits = {}};
    for (const Visit& visit : trace.visits)
        if (visit.group == group) alone.visits.push_back(visit);
    return alone;
}

}  // namespace

uint64_t Trace::allPages() const {
    uint64_t all = 0;
    for (uint32_t count : pages) all += count;
    return all;
}

uint64_t Trace::largestPage() const {
    return page_bytes.empty() ? 0 : *std::max_element(page_bytes.begin(), page_bytes.end());
}

double Replay::hitRate() const {
    return hits + misses == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(hits + misses);
}

Replay replay(const Trace& trace, Residency& residency, uint32_t slots) {
    assert(slots > 0 && trace.pages.size() == trace.page_bytes.size());
    Cache cache(trace, residency, slots);
    for (const Visit& visit : trace.visits) cache.visit(visit);
    return cache.result();
}

Replay replayBelady(const Trace& trace, uint32_t slots) {
    return replay(trace, *Residency::belady(trace.pages, trace.visits), slots);
}

Replay replayBeladyApart(const Trace& trace, uint32_t slots) {
    Replay sum;
    uint32_t groups = static_cast<uint32_t>(trace.pages.size());
    for (uint32_t group = 0; group < groups; group++) {
        uint32_t share = slots / groups + (group < slots % groups ? 1 : 0);
        Trace alone = onlyGroup(trace, group);
        Replay one = replayBelady(alone, std::max(share, 1u));
        if (share == 0) {  // what would hit its only slot does not
            const uint64_t bytes = one.hits * trace.page_bytes[group];
            one.misses += one.hits;
            one.bytes += bytes;
            if (trace.costs.read_bytes_per_second > 0) one.seconds += double(bytes) / trace.costs.read_bytes_per_second;
            one.hits = 0;
        }
        sum.hits += one.hits;
        sum.misses += one.misses;
        sum.bytes += one.bytes;
        sum.seconds += one.seconds;
    }
    return sum;
}

}  // namespace v1
}  // namespace vkmoe
