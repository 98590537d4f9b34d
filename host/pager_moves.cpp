// The pager's copies between the tiers: what moves, in the work that wants it or beside it.
#include <algorithm>
#include <limits>
#include <utility>

#include "host/pager.h"

namespace vkmoe {
inline namespace v1 {

// Where a page that leaves tier 1 may go: a slot of nothing, of a copy, or of what is worth less. While everything is
// resident nothing may leave memory.
Pager::Place Pager::demotionSlot(double worth) {
    Place best;
    for (uint32_t i = 0; i < tiers_[1].size(); ++i) {
        const Slot& slot = tiers_[1][i];
        if (slot.page == kNoPage && slot.busy_until != UINT64_MAX) return {1, i};
        if (slot.page == kNoPage) continue;
        const Page& p = pages_[slot.page];
        if (p.reading || p.turn.needed || p.arriving || slot.busy_until == UINT64_MAX) continue;
        double here = p.slot[0] >= 0 ? -std::numeric_limits<double>::infinity() : residency_->worth(slot.page);
        if (here >= worth || (all_resident_ && p.slot[0] < 0)) continue;
        worth = here;
        best = {1, i};
    }
    return best;
}

// A slot of tier 1 for a page of this worth.
Pager::Place Pager::promotionSlot(double worth) const {
    Place best;
    for (uint32_t i = 0; i < tiers_[0].size(); ++i) {
        const Slot& slot = tiers_[0][i];
        if (slot.page == kNoPage) return {0, i};
        const Page& p = pages_[slot.page];
        if (copy_pause_ > 0 || p.turn.needed || p.arriving || quiet_ || slot.busy_until == UINT64_MAX) continue;
        double here = residency_->worth(slot.page);
        if (here >= worth) continue;
        worth = here;
        best = {0, i};
    }
    return best;
}

// The page in this slot of tier 1 goes to tier 2, or leaves memory where that is full of better. False if it cannot.
bool Pager::makeWay(Place place, std::vector<Move>& out) {
    const PageId leaves = slotOf(place).page;
    if (pages_[leaves].slot[1] < 0) {
        Place to = demotionSlot(residency_->worth(leaves));
        if (!to && all_resident_) return false;
        if (to) {
            if (slotOf(to).page != kNoPage && !clear(to)) return false;
            slotOf(to).page = leaves;
            pages_[leaves].slot[1] = int32_t(to.slot);
            out.push_back({place, to});
            hold(slotOf(to));
            moved_.push_back(leaves);
            ++trial_copies_;
        }
    }
    return bool(clear(place));
}

double Pager::promotionBar() const {
    double bar = std::numeric_limits<double>::infinity();
    for (uint32_t i = 0; i < tiers_[0].size(); ++i) {
        const Slot& slot = tiers_[0][i];
        if (slot.page == kNoPage) return -std::numeric_limits<double>::infinity();
        const Page& p = pages_[slot.page];
        if (copy_pause_ == 0 && !p.turn.needed && !p.arriving) bar = std::min(bar, residency_->worth(slot.page));
    }
    return bar;
}

// To tier 1, if it is worth a place there. The copy in tier 2 stays until its slot is wanted.
void Pager::promote(PageId page, std::vector<Move>& out, std::vector<Move>& in) {
    Page& p = pages_[page];
    if (p.slot[0] >= 0 || tiers_[0].size() == 0 || p.turn.host) return;
    if (departing_.size() + flying() >= std::max(slots(1) / 4, 1u)) return;  // what flies keeps its slot in tier 2
    Place to = promotionSlot(residency_->worth(page));
    if (!to) return;
    const bool taken = slotOf(to).page != kNoPage;  // a slot that nothing holds is no trial of copies
    if (taken && !makeWay(to, out)) return;
    trial_copies_ += taken;
    Move move{{1, uint32_t(p.slot[1])}, to};
    slotOf(to).page = page;
    p.slot[0] = int32_t(to.slot);
    p.promoted = taken;
    moved_.push_back(page);
    hold(slotOf(move.from));  // nothing may take it before it is copied
    hold(slotOf(to));
    p.arriving = beside_ && !quiet_;
    (p.arriving ? departing_ : in).push_back(move);
}

// The work changes these pages in tier 1: copies in tier 2 would be out of date. Only once all moves are decided, for
// what moves down runs before what moves up.
void Pager::dropOldCopies() {
    for (PageId page : wave_) {
        const Page& p = pages_[page];
        if (p.turn.changes && p.slot[0] >= 0 && p.slot[1] >= 0) (void)clear({1, uint32_t(p.slot[1])});  // cannot fail
    }
}

void Pager::recordMoves(Commands& commands, const std::vector<Move>& out, const std::vector<Move>& in) {
    for (const auto* moves : {&out, &in}) {
        for (const Move& move : *moves) {
            Slot &from = slotOf(move.from), &to = slotOf(move.to);
            commands.copy(*from.slab, from.offset, *to.slab, to.offset, slot_bytes_);
            counters_.bytes_copied += slot_bytes_;
        }
        if (!moves->empty()) commands.barrier();
    }
}

// ---- transfers ------------------------------------------------------------------------------------------------------

size_t Pager::flying() const {
    size_t count = 0;
    for (const Flight& flight : flights_) count += flight.moves.size();
    return count;
}

// The submits so far know that tier 1 holds the pages that gave way no longer; what comes is copied over them.
Result<void> Pager::startTransfers() {
    if (departing_.empty()) return {};
    Commands copies;
    for (const Move& move : departing_) {
        const Slot &from = slotOf(move.from), &to = slotOf(move.to);
        copies.copy(*from.slab, from.offset, *to.slab, to.offset, slot_bytes_);
    }
    VKMOE_TRY(value, device_.transfer(copies, last_value_));
    counters_.bytes_copied += slot_bytes_ * departing_.size();
    flights_.push_back({value, std::exchange(departing_, {})});
    return {};
}

// Pages that have arrived are used in tier 1 from now on.
void Pager::land(uint64_t transferred) {
    std::erase_if(flights_, [&](const Flight& flight) {
        if (flight.value > transferred) return false;
        for (const Move& move : flight.moves) pages_[slotOf(move.to).page].arriving = false;
        landed_ = std::max(landed_, flight.value);
        return true;
    });
}

Result<void> Pager::land() {
    if (flights_.empty()) return {};
    VKMOE_TRY(transferred, device_.transferred());
    land(transferred);
    return {};
}

// Waits for the oldest transfer, whose slots in tier 2 are wanted; false: there is none.
Result<bool> Pager::landOne() {
    if (flights_.empty()) return false;
    uint64_t value = flights_.front().value;
    Commands nothing;
    nothing.awaitTransfer(value);
    VKMOE_TRY(passed, device_.submit(nothing));
    VKMOE_CHECK(device_.wait(passed));
    land(value);
    return true;
}

}  // namespace v1
}  // namespace vkmoe
