// The pager's memory: which slot is taken next, what moves between the tiers, and what the tables say.
#include <algorithm>
#include <limits>

#include "host/pager.h"
#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {

const Slot* Pager::slotHolding(PageId page) const {
    int tier = tierOf(page);
    return tier < 0 ? nullptr : &tiers_[tier][uint32_t(pages_[page].slot[tier])];
}

uint64_t Pager::address(PageId page) const {
    const Slot* slot = slotHolding(page);
    return slot ? slot->address() : 0;
}

int Pager::tierOf(PageId page) const {
    const Page& p = pages_[page];
    return p.resident() ? (p.slot[0] >= 0 ? 0 : 1) : -1;
}

// ---- slots ----------------------------------------------------------------------------------------------------------

Pager::Place Pager::freeSlot(uint64_t passed, bool any_time) {
    for (int tier : {0, 1}) {
        if (!readsInto(tier)) continue;
        for (uint32_t i = 0; i < tiers_[tier].size(); ++i) {
            const Slot& slot = tiers_[tier][i];
            if (slot.page == kNoPage && slot.busy_until <= (any_time ? UINT64_MAX - 1 : passed)) return {tier, i};
        }
    }
    return {};
}

// The slot of the page that is worth least; one that tier 1 holds too is worth nothing here.
Pager::Place Pager::victim(uint64_t passed, bool any_time) {
    Place best;
    double least = std::numeric_limits<double>::infinity();
    for (int tier : {0, 1}) {
        if (!readsInto(tier)) continue;
        for (uint32_t i = 0; i < tiers_[tier].size(); ++i) {
            const Slot& slot = tiers_[tier][i];
            if (slot.page == kNoPage || slot.busy_until > (any_time ? UINT64_MAX - 1 : passed)) continue;
            const Page& p = pages_[slot.page];
            if (p.reading || p.now) continue;
            bool copy = !flat_ && p.slot[0] >= 0;
            if (!copy && (p.needed || quiet_)) continue;
            double worth = copy ? -std::numeric_limits<double>::infinity() : residency_->worth(slot.page);
            if (best && (worth > least || (worth == least && slot.page < slotOf(best).page))) continue;
            best = {tier, i};
            least = worth;
        }
    }
    return best;
}

Result<Pager::Place> Pager::acquire(bool may_wait, bool ahead) {
    VKMOE_TRY(passed, device_.passed());
    Place place = freeSlot(passed, false);
    if (!place) place = victim(passed, false);
    if (place && ahead && slotOf(place).page != kNoPage && pages_[slotOf(place).page].ahead) return Place{};
    if (!place && !may_wait) return Place{};
    for (; !place;) {
        place = freeSlot(passed, true);
        if (!place) place = victim(passed, true);
        if (!place && !dropOneAhead()) return Place{};
    }
    if (slotOf(place).busy_until > passed) VKMOE_CHECK(device_.wait(slotOf(place).busy_until));
    if (slotOf(place).page != kNoPage) VKMOE_CHECK(clear(place));
    return place;
}

// Makes room where pages that nobody asked for fill it.
bool Pager::dropOneAhead() {
    for (PageId page : ahead_) {
        if (!pages_[page].reading || pages_[page].needed) continue;
        if (!reader_->cancel(page)) (void)reader_->wait(page);
        pages_[page].reading = false;
        forget(page);
        return true;
    }
    return false;
}

// Empties a slot.
Result<void> Pager::clear(Place place) {
    PageId page = slotOf(place).page;
    Page& p = pages_[page];
    bool last = p.slot[1 - place.tier] < 0;
    if (last && p.dirty) VKMOE_CHECK(keepChanges(page));
    p.slot[place.tier] = -1;
    if (place.tier == 0) p.promoted = false;
    slotOf(place).page = kNoPage;
    if (!last) return {};
    p.ahead = false;
    ++counters_.evictions;
    return {};
}

// The page is in no slot any more, whatever was in it.
void Pager::forget(PageId page) {
    Page& p = pages_[page];
    for (int tier : {0, 1})
        if (p.slot[tier] >= 0) tiers_[tier][uint32_t(p.slot[tier])].page = kNoPage;
    p = {};
}

Result<void> Pager::keepChanges(PageId page) {
    Page& p = pages_[page];
    int tier = p.slot[0] >= 0 ? 0 : 1;
    Slot& slot = tiers_[tier][uint32_t(p.slot[tier])];
    uint64_t bytes = store_->pageBytes(page);
    VKMOE_CHECK(device_.wait(slot.busy_until));
    if (slot.slab->mapped().empty()) {
        std::vector<std::byte> copy(bytes);
        VKMOE_CHECK(downloadBytes(device_, *slot.slab, slot.offset, copy));
        VKMOE_CHECK(store_->write(page, copy));
    } else {
        VKMOE_CHECK(store_->write(page, slot.bytes(bytes)));
    }
    p.dirty = false;
    counters_.bytes_written += bytes;
    return {};
}

Result<void> Pager::writeBack() {
    for (PageId page = 0; page < pages_.size(); ++page)
        if (pages_[page].dirty) VKMOE_CHECK(keepChanges(page));
    return {};
}

// ---- moving ---------------------------------------------------------------------------------------------------------

// Where a page that leaves tier 1 may go: a slot of nothing, of a copy, or of what is worth less. While everything is
// resident nothing may leave memory.
Pager::Place Pager::demotionSlot(double worth) {
    Place best;
    for (uint32_t i = 0; i < tiers_[1].size(); ++i) {
        const Slot& slot = tiers_[1][i];
        if (slot.page == kNoPage && slot.busy_until != UINT64_MAX) return {1, i};
        if (slot.page == kNoPage) continue;
        const Page& p = pages_[slot.page];
        if (p.reading || p.needed || slot.busy_until == UINT64_MAX) continue;
        double here = p.slot[0] >= 0 ? -std::numeric_limits<double>::infinity() : residency_->worth(slot.page);
        if (here >= worth || (all_resident_ && p.slot[0] < 0)) continue;
        worth = here;
        best = {1, i};
    }
    return best;
}

// A slot of tier 1 for a page of this worth; what gave way goes to tier 2, or leaves memory where that is full of
// better.
Pager::Place Pager::promotionSlot(double worth, std::vector<Move>& out) {
    Place best;
    for (uint32_t i = 0; i < tiers_[0].size(); ++i) {
        const Slot& slot = tiers_[0][i];
        if (slot.page == kNoPage) return {0, i};
        if (copy_pause_ > 0 || pages_[slot.page].needed || quiet_ || slot.busy_until == UINT64_MAX) continue;
        double here = residency_->worth(slot.page);
        if (here >= worth) continue;
        worth = here;
        best = {0, i};
    }
    if (!best) return best;
    PageId leaves = slotOf(best).page;
    if (pages_[leaves].slot[1] < 0) {
        Place to = demotionSlot(worth);
        if (!to && all_resident_) return {};
        if (to) {
            if (slotOf(to).page != kNoPage && !clear(to)) return {};
            slotOf(to).page = leaves;
            pages_[leaves].slot[1] = int32_t(to.slot);
            out.push_back({best, to});
            hold(slotOf(to));
            moved_.push_back(leaves);
        }
    }
    if (!clear(best)) return {};
    return best;
}

double Pager::promotionBar() const {
    double bar = std::numeric_limits<double>::infinity();
    for (uint32_t i = 0; i < tiers_[0].size(); ++i) {
        const Slot& slot = tiers_[0][i];
        if (slot.page == kNoPage) return -std::numeric_limits<double>::infinity();
        if (copy_pause_ == 0 && !pages_[slot.page].needed) bar = std::min(bar, residency_->worth(slot.page));
    }
    return bar;
}

// To tier 1, if it is worth a place there. The copy in tier 2 stays until its slot is wanted.
Result<void> Pager::promote(PageId page, std::vector<Move>& out, std::vector<Move>& in) {
    Page& p = pages_[page];
    if (p.slot[0] >= 0 || tiers_[0].size() == 0 || p.host) return {};
    Place to = promotionSlot(residency_->worth(page), out);
    if (!to) return {};
    in.push_back({{1, uint32_t(p.slot[1])}, to});
    hold(slotOf(in.back().from));  // nothing may take it before it is copied
    hold(slotOf(to));
    slotOf(to).page = page;
    p.slot[0] = int32_t(to.slot);
    p.promoted = true;
    moved_.push_back(page);
    return {};
}

// The work changes these pages in tier 1: copies in tier 2 would be out of date. Only once all moves are decided, for
// what moves down runs before what moves up.
Result<void> Pager::dropOldCopies() {
    for (PageId page : wave_) {
        const Page& p = pages_[page];
        if (p.changes && p.slot[0] >= 0 && p.slot[1] >= 0) VKMOE_CHECK(clear({1, uint32_t(p.slot[1])}));
    }
    return {};
}

void Pager::recordMoves(Commands& commands, const std::vector<Move>& out, const std::vector<Move>& in) {
    for (const auto* moves : {&out, &in}) {
        for (const Move& move : *moves) {
            Slot &from = slotOf(move.from), &to = slotOf(move.to);
            commands.copy(*from.slab, from.offset, *to.slab, to.offset, slot_bytes_);
            counters_.bytes_copied += slot_bytes_;
            ++trial_copies_;
        }
        if (!moves->empty()) commands.barrier();
    }
}

// Recorded work uses the slot: nothing may be read into it until that is submitted and done.
void Pager::hold(Slot& slot) {
    slot.busy_until = UINT64_MAX;
    touched_.push_back(&slot);
}

void Pager::hold(PageId page) {
    for (int tier : {0, 1})
        if (pages_[page].slot[tier] >= 0) hold(tiers_[tier][uint32_t(pages_[page].slot[tier])]);
}

// ---- tables ---------------------------------------------------------------------------------------------------------

// Of the turn's pages those of the wave have addresses, the others are null. No kernel looks at the rest.
void Pager::recordTable(Commands& commands) {
    std::vector<PageId> changed;
    for (PageId page : turn_) {
        uint64_t wanted = pages_[page].now && !pages_[page].host ? address(page) : 0;
        if (entry_[page] == wanted) continue;
        entry_[page] = wanted;
        changed.push_back(page);
    }
    setEntries(commands, std::move(changed));
}

void Pager::publish(Commands& commands) {
    std::vector<PageId> changed;
    for (PageId page = 0; page < pages_.size(); ++page) {
        if (entry_[page] == address(page)) continue;
        entry_[page] = address(page);
        changed.push_back(page);
    }
    setEntries(commands, std::move(changed));
}

// Neighbours in a table are written at once.
void Pager::setEntries(Commands& commands, std::vector<PageId> changed) {
    std::sort(changed.begin(), changed.end());
    for (size_t i = 0, j = 0; i < changed.size(); i = j) {
        uint32_t group = index_.of(changed[i]);
        while (j < changed.size() && changed[j] == changed[i] + (j - i) && index_.of(changed[j]) == group) ++j;
        auto entries = std::as_bytes(std::span(entry_).subspan(changed[i], j - i));
        commands.update(*tables_[group].table, uint64_t{changed[i] - index_.first(group)} * 8, entries);
    }
}

}  // namespace v1
}  // namespace vkmoe
