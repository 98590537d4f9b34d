// The pager's reads: of what is needed, and ahead of that.
#include <algorithm>

#include "host/clock.h"
#include "host/pager.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr double kGoodTrial = 0.4;  // share of the pages read ahead that must have been used
constexpr size_t kMostAhead = 8;    // pages that are being read ahead at most
constexpr double kLikely = 0.5;     // chance of a page that is worth reading ahead

}  // namespace

// Its read has been requested.
void Pager::comes(PageId page, Place place) {
    slotOf(place).page = page;
    pages_[page].slot[place.tier] = int32_t(place.slot);
    pages_[page].reading = true;
}

Result<bool> Pager::requestUnit(const Unit& unit, bool may_wait) {
    for (PageId page : unit) pages_[page].turn.needed = true;
    for (PageId page : unit) {
        if (pages_[page].resident() || pages_[page].reading) continue;
        VKMOE_TRY(place, acquire(may_wait));
        if (!place) return false;
        reader_->request(page, slotOf(place).bytes(store_->pageBytes(page)), PageReader::Urgency::needed);
        comes(page, place);
    }
    return true;
}

Result<void> Pager::requestMore(bool may_wait) {
    size_t count = 0;
    for (; count < waiting_.size(); ++count) {
        VKMOE_TRY(requested, requestUnit(waiting_[count], may_wait && count == 0));
        if (!requested) break;
        coming_.push_back(waiting_[count]);
    }
    waiting_.erase(waiting_.begin(), waiting_.begin() + ptrdiff_t(count));
    return {};
}

// Where pages of units that wait hold the memory that the first of them wants, they give it up and are read again.
void Pager::yieldWaiting() {
    for (size_t i = 1; i < waiting_.size(); ++i)
        for (PageId page : waiting_[i]) pages_[page].turn.needed = false;
}

// Gives up a read, or waits for one that has begun; whether the page is there now.
bool Pager::endRead(PageId page) {
    if (!reader_->cancel(page)) return bool(finishRead(page, reader_->wait(page)));
    pages_[page].reading = false;
    return false;
}

Result<void> Pager::finishRead(PageId page, Result<void> outcome) {
    pages_[page].reading = false;
    if (const Guess guess = pages_[page].ahead; outcome && guess != Guess::none) {
        ++counters_.prefetched;
        ++trialOf(guess).issued;
    }
    if (!outcome) forget(page);
    return outcome;
}

Result<void> Pager::waitFor(const Unit& unit) {
    for (PageId page : unit) {
        if (!pages_[page].reading) continue;
        auto outcome = reader_->take(page);
        if (!outcome) {
            if (pages_[page].ahead != Guess::none) ++counters_.prefetch_late;
            double start = secondsNow();
            outcome = reader_->wait(page);
            counters_.read_wait_seconds += secondsNow() - start;
            ++counters_.read_waits;
        }
        VKMOE_CHECK(finishRead(page, std::move(*outcome)));
    }
    return {};
}

// What was read ahead and has arrived, unless the turn waits for it. A read that failed is tried again when the page is
// needed, and told then.
void Pager::collectAhead() {
    std::erase_if(ahead_, [&](PageId page) {
        if (!pages_[page].reading) return true;
        if (pages_[page].turn.needed) return false;
        auto outcome = reader_->take(page);
        if (outcome) (void)finishRead(page, std::move(*outcome));
        return outcome.has_value();
    });
}

void Pager::Trial::judge() {
    if (issued < kPages) return;
    if (double(used) < kGoodTrial * double(issued)) pause = kPause;
    issued = used = 0;
}

void Pager::readAhead(std::span<const PageId> pages, Guess guess) {
    if (!prefetches() || trialOf(guess).pause > 0) return;
    collectAhead();
    for (PageId page : pages) {
        if (pages_[page].resident() || pages_[page].reading || ahead_.size() >= kMostAhead) continue;
        const Place place = aheadSlot(page, guess);
        if (!place) break;
        ahead_.push_back(page);
        reader_->request(page, slotOf(place).bytes(store_->pageBytes(page)), PageReader::Urgency::ahead);
        comes(page, place);
        pages_[page].ahead = guess;
    }
    trialOf(guess).judge();
}

void Pager::readLikely(uint32_t group) {
    if (!prefetches() || history_.pause > 0) return;
    std::vector<std::pair<double, PageId>> likely;
    for (PageId page = index_.first(group); page < index_.end(group); ++page) {
        const double chance = pages_[page].resident() ? 0 : residency_->likely(page);
        if (chance >= kLikely) likely.push_back({-chance, page});
    }
    std::sort(likely.begin(), likely.end());
    std::vector<PageId> pages;
    for (const auto& one : likely) pages.push_back(one.second);
    readAhead(pages, Guess::history);
}

}  // namespace v1
}  // namespace vkmoe
