// The pager's memory: which slot is taken next, and what the tables say.
#include <algorithm>
#include <limits>

#include "host/pager.h"
#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {

const Slot* Pager::slotHolding(PageId page) const {
    // What is left to the host stays where the host reads it, though a copy may have arrived on the device since.
    const Page& p = pages_[page];
    int tier = p.turn.host && p.slot[1] >= 0 ? 1 : tierOf(page);
    return tier < 0 ? nullptr : &tiers_[tier][uint32_t(pages_[page].slot[tier])];
}

uint64_t Pager::address(PageId page) const {
    const Slot* slot = slotHolding(page);
    return slot ? slot->address() : 0;
}

int Pager::tierOf(PageId page) const {
    const Page& p = pages_[page];
    return p.resident() ? (p.slot[0] >= 0 && !p.arriving ? 0 : 1) : -1;
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
            if (p.reading || p.turn.now || p.arriving) continue;
            bool copy = !flat_ && p.slot[0] >= 0;
            if (!copy && (p.turn.needed || quiet_)) continue;
            double worth = copy ? -std::numeric_limits<double>::infinity() : residency_->worth(slot.page);
            if (best && (worth > least || (worth == least && slot.page < slotOf(best).page))) continue;
            best = {tier, i};
            least = worth;
        }
    }
    return best;
}

// A slot for a page that may be needed, empty; none: guesses wait for nothing. Neither is a guess given up for another,
// nor a page written to the store for it.
Pager::Place Pager::aheadSlot(PageId page, Guess guess) {
    auto passed = device_.passed();
    if (!passed) return {};
    if (const Place place = freeSlot(*passed, false)) return place;
    const Place place = victim(*passed, false);
    if (!place) return {};
    const PageId there = slotOf(place).page;
    if (pages_[there].ahead != Guess::none || pages_[there].dirty) return {};
    const bool copy = pages_[there].slot[1 - place.tier] >= 0;
    if (guess == Guess::history && !copy && residency_->worth(there) >= residency_->worth(page)) return {};
    return clear(place) ? place : Place{};
}

Result<Pager::Place> Pager::acquire(bool may_wait) {
    VKMOE_TRY(passed, device_.passed());
    Place place = freeSlot(passed, false);
    if (!place) place = victim(passed, false);
    if (!place && !may_wait) return Place{};
    for (; !place;) {
        place = freeSlot(passed, true);
        if (!place) place = victim(passed, true);
        if (place || dropOneAhead()) continue;
        VKMOE_TRY(landed, landOne());
        if (!landed) return Place{};
    }
    if (slotOf(place).busy_until > passed) VKMOE_CHECK(device_.wait(slotOf(place).busy_until));
    if (slotOf(place).page != kNoPage) VKMOE_CHECK(clear(place));
    return place;
}

// Makes room where pages that nobody asked for fill it.
bool Pager::dropOneAhead() {
    for (PageId page : ahead_) {
        if (!pages_[page].reading || pages_[page].turn.needed) continue;
        endRead(page);
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
    p.ahead = Guess::none;
    ++counters_.evictions;
    return {};
}

// The page is in no slot any more, whatever was in it. What the turn wants of it stays: it may be read again.
void Pager::forget(PageId page) {
    Page& p = pages_[page];
    for (int tier : {0, 1})
        if (p.slot[tier] >= 0) tiers_[tier][uint32_t(p.slot[tier])].page = kNoPage;
    p = {.turn = p.turn};
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
        uint64_t wanted = pages_[page].turn.now && !pages_[page].turn.host ? address(page) : 0;
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
