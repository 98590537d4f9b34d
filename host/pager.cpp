// The pager's turns: what is needed, in which waves, read by whom.
#include "host/pager.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <numeric>

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr size_t kPreloadWave = 32;  // pages of a wave of preload; the next ones are read meanwhile

std::vector<uint32_t> sizesOf(const std::vector<PageGroup>& groups) {
    std::vector<uint32_t> sizes;
    for (const PageGroup& group : groups) sizes.push_back(group.pages);
    return sizes;
}

// A fifth of what is free stays for other things. Tiers that are one memory share it.
PagerOptions withinMemory(Device& device, PagerOptions options, bool flat) {
    auto room = [](const Ledger& ledger) { return ledger.left() / 5 * 4; };
    const bool apart = device.ownMemory() && !flat;
    const uint64_t near = room(device.ownMemory() && flat ? device.hostLedger() : device.ledger());
    options.device_budget = std::min(options.device_budget, near);
    const uint64_t far = apart ? room(device.hostLedger()) : near - options.device_budget;
    options.host_budget = std::min(options.host_budget, far);
    return options;
}

}  // namespace

Pager::Pager(Device& device, std::unique_ptr<PageStore> store, std::vector<PageGroup> groups,
             const PagerOptions& options)
    : device_(device),
      store_(std::move(store)),
      tables_(std::move(groups)),
      index_(sizesOf(tables_)),
      prefetch_(options.prefetch),
      gain_(options.gain) {
    pages_.resize(index_.pages());
    entry_.assign(index_.pages(), UINT64_MAX);  // unknown: everything is recorded at first
    for (PageId page = 0; page < pages_.size(); ++page) slot_bytes_ = std::max(slot_bytes_, store_->pageBytes(page));
    flat_ = options.placement == Placement::flat || (options.placement == Placement::automatic && !device.ownMemory());
    beside_ = !flat_ && options.transfer_queue && device.transferQueue() && !store_->writable();
}

Pager::~Pager() = default;

Result<std::unique_ptr<Pager>> Pager::create(Device& device, std::unique_ptr<PageStore> store,
                                             std::vector<PageGroup> groups, const PagerOptions& options) {
    std::unique_ptr<Pager> pager(new Pager(device, std::move(store), std::move(groups), options));
    VKMOE_CHECK(pager->allocate(withinMemory(device, options, pager->flat_)));
    pager->residency_ = Residency::create(options.policy, sizesOf(pager->tables_), pager->slots(0) + pager->slots(1));
    pager->reader_ = std::make_unique<PageReader>(*pager->store_, std::max(options.readers, 1u));
    return pager;
}

Result<void> Pager::allocate(const PagerOptions& options) {
    uint64_t all = pages_.size(), first = std::min(options.device_budget / slot_bytes_, all);
    uint64_t second = std::min(options.host_budget / slot_bytes_, flat_ ? all - first : all);
    if (!flat_ && first + second > 0) second = std::max<uint64_t>({second, 2, options.unit});  // reads pass through it
    Memory mapped = store_->writable() || options.host_reads ? Memory::download : Memory::upload;
    if (!flat_) mapped = Memory::host;
    Memory near = flat_ ? mapped : Memory::device;
    VKMOE_TRY(device_slots, Slots::create(device_, near, slot_bytes_, first, "pages in tier 1"));
    if (!flat_ && device_slots.size() == all)  // tier 2 is what reads pass through
        second = std::min(second, std::max<uint64_t>(2 * kPreloadWave, options.unit));
    VKMOE_TRY(host_slots, Slots::create(device_, mapped, slot_bytes_, second, "pages in tier 2"));
    tiers_[0] = std::move(device_slots);
    tiers_[1] = std::move(host_slots);
    if (slots(0) + slots(1) > 0 && (flat_ || slots(1) > 0)) return {};
    return Error{ErrorCode::out_of_memory,
                 fmt::format("budgets of {} bytes on the device and {} on the host hold no page of {} bytes",
                             options.device_budget, options.host_budget, slot_bytes_)};
}

// ---- everything in memory -------------------------------------------------------------------------------------------

Result<void> Pager::bringAll(const std::function<bool(uint64_t, uint64_t)>& progress) {
    std::vector<PageId> all(pages_.size());
    std::iota(all.begin(), all.end(), PageId{0});
    VKMOE_CHECK(start(all));
    for (uint64_t brought = 0; !done();) {
        Commands commands;
        VKMOE_CHECK(next(commands));
        VKMOE_CHECK(submit(commands));
        brought += wave_.size();
        if (progress && !progress(brought, all.size()))
            return Error{ErrorCode::unsupported, fmt::format("cancelled after {} of {} pages", brought, all.size())};
    }
    return {};
}

Result<void> Pager::preload(const std::function<bool(uint64_t, uint64_t)>& progress) {
    all_resident_ = false;
    if (slots(0) + slots(1) < pages_.size()) return {};
    for (Slots& tier : tiers_) tier.back();
    quiet_ = true;
    auto brought = bringAll(progress);
    quiet_ = false;
    VKMOE_CHECK(std::move(brought));
    endWave();
    for (const Page& page : pages_)
        if (!page.resident()) return {};  // tier 2 served as staging: not all of it counts
    Commands commands;
    publish(commands);
    VKMOE_CHECK(submit(commands));
    all_resident_ = was_resident_ = true;
    return {};
}

Result<void> Pager::begin() {
    if (!unsubmitted_ && all_resident_ == was_resident_) return {};
    entry_.assign(entry_.size(), UINT64_MAX);
    abandon();
    if (was_resident_) VKMOE_CHECK(preload());  // if it fails, the next call tries again
    unsubmitted_ = false;
    if (all_resident_ == was_resident_) return {};
    return Error{ErrorCode::internal, "pages that were all in memory are so no longer"};
}

Result<void> Pager::rebalance(Commands& commands) {
    VKMOE_CHECK(begin());
    unsubmitted_ = true;
    VKMOE_CHECK(startTransfers());
    VKMOE_CHECK(land());
    judgeCopies();
    if (!flat_ && slots(0) > 0) {
        std::vector<PageId> best;
        for (PageId p = 0; p < pages_.size(); ++p)
            if (pages_[p].slot[0] < 0) best.push_back(p);
        size_t some = std::min<size_t>(best.size(), 4);  // a pass moves few: what it copies competes with its reads
        std::partial_sort(best.begin(), best.begin() + ptrdiff_t(some), best.end(),
                          [&](PageId a, PageId b) { return residency_->worth(a) > residency_->worth(b); });
        std::vector<Move> out, in;
        for (size_t i = 0; i < some; ++i) promote(best[i], out, in);
        recordMoves(commands, out, in);
    }
    publish(commands);
    commands.barrier();
    return {};
}

void Pager::note(uint32_t group, std::span<const PageId> pages) {
    residency_->visit(group, pages);
    for (PageId page : pages) count(page);
}

// ---- turns ----------------------------------------------------------------------------------------------------------

PagerCounters Pager::counters() const {
    PagerCounters counters = counters_;
    counters.bytes_read = reader_->work().bytes;
    return counters;
}

void Pager::count(PageId page) {
    int tier = tierOf(page);
    ++(tier < 0 ? counters_.tier3 : tier == 0 ? counters_.tier1 : counters_.tier2);
    trial_hits_ += tier == 0 && pages_[page].promoted;
}

// Copies to tier 1 must be worth what they cost, or a policy that errs would be worse than none.
void Pager::judgeCopies() {
    if (copy_pause_ > 0) --copy_pause_;
    if (trial_copies_ < 2 * Trial::kPages) return;
    if (double(trial_hits_) * gain_ < double(trial_copies_)) copy_pause_ = Trial::kPause;
    trial_copies_ = trial_hits_ = 0;
}

// Tells the policy, each group once.
void Pager::visit(std::span<const PageId> pages, uint32_t unit) {
    std::vector<PageId> sorted(pages.begin(), pages.end());
    if (unit > 1) std::sort(sorted.begin(), sorted.end());
    index_.split(sorted, [&](uint32_t group, std::span<const PageId> used) { residency_->visit(group, used); });
}

Result<void> Pager::start(std::span<const PageId> pages, uint32_t unit, uint32_t changes) {
    abandon();
    VKMOE_CHECK(startTransfers());
    turn_.assign(pages.begin(), pages.end());
    collectAhead();
    for (Trial* trial : {&told_, &history_})
        if (trial->pause > 0) --trial->pause;
    judgeCopies();
    if (!quiet_) visit(pages, unit);
    for (size_t i = 0; i < pages.size(); ++i) {
        PageId page = pages[i];
        pages_[page].turn.needed = true;
        pages_[page].turn.changes = changes >> i % unit & 1;
        if (!quiet_) count(page);
        if (pages_[page].reading) reader_->hurry(page);
    }
    for (size_t i = 0; i < pages.size(); i += unit) {
        Unit together(pages.begin() + ptrdiff_t(i), pages.begin() + ptrdiff_t(std::min(i + unit, pages.size())));
        auto all = [&](auto is) { return std::all_of(together.begin(), together.end(), is); };
        bool resident = all([&](PageId p) { return pages_[p].resident(); });
        bool coming = all([&](PageId p) { return pages_[p].resident() || pages_[p].reading; });
        (resident ? resident_ : coming ? coming_ : waiting_).push_back(std::move(together));
    }
    return requestMore(false);
}

void Pager::leaveToHost(PageId page) {
    assert(pages_[page].turn.needed && tierOf(page) != 0 && !pages_[page].turn.changes);
    pages_[page].turn.host = true;
}

Result<void> Pager::next(Commands& commands) {
    unsubmitted_ = true;
    endWave();
    VKMOE_CHECK(startTransfers());
    VKMOE_CHECK(land());
    ++counters_.waves;
    auto take = [&](std::vector<Unit>& units, size_t count) {
        for (size_t i = 0; i < count; ++i) wave_.insert(wave_.end(), units[i].begin(), units[i].end());
        units.erase(units.begin(), units.begin() + ptrdiff_t(count));
    };
    if (!resident_.empty()) {
        take(resident_, resident_.size());
    } else {
        if (coming_.empty()) VKMOE_CHECK(requestMore(true));
        if (coming_.empty()) {
            yieldWaiting();
            VKMOE_CHECK(requestMore(true));
        }
        if (coming_.empty())
            return Error{ErrorCode::out_of_memory,
                         fmt::format("{} pages of {} bytes are needed at once, memory holds {}",
                                     waiting_.front().size(), slot_bytes_, slots(0) + slots(1))};
        // With more to come than there are slots, one half is used while the other is read.
        size_t some = waiting_.empty() ? coming_.size() : (coming_.size() + 1) / 2;
        if (quiet_) some = std::min(some, kPreloadWave);
        for (size_t i = 0; i < some; ++i) VKMOE_CHECK(waitFor(coming_[i]));
        take(coming_, some);
        VKMOE_CHECK(requestMore(false));
    }
    for (PageId page : wave_) use(page);
    commands.barrier();
    std::vector<Move> out, in;
    if (!flat_)
        for (PageId page : wave_) promote(page, out, in);
    if (!flat_) dropOldCopies();
    recordMoves(commands, out, in);
    for (PageId page : wave_) hold(page);
    recordTable(commands);
    commands.barrier();
    return {};
}

void Pager::endWave() {
    for (PageId page : wave_) pages_[page].turn = {};
    wave_.clear();
}

void Pager::use(PageId page) {
    Page& p = pages_[page];
    p.turn.now = true;
    counters_.host_computed += p.turn.host;
    p.dirty = p.dirty || p.turn.changes;
    if (p.ahead == Guess::none) return;
    ++trialOf(p.ahead).used;
    ++counters_.prefetch_used;
    p.ahead = Guess::none;
}

Result<uint64_t> Pager::submit(Commands& commands) {
    commands.awaitTransfer(landed_);
    VKMOE_TRY(value, device_.submit(commands));
    commands = {};
    last_value_ = value;
    for (Slot* slot : touched_) slot->busy_until = value;
    touched_.clear();
    moved_.clear();
    landed_ = 0;
    unsubmitted_ = false;
    return value;
}

// A turn that an error ended: what was recorded but never submitted did not happen.
void Pager::abandon() {
    for (const auto* units : {&coming_, &waiting_})
        for (const Unit& unit : *units)
            for (PageId page : unit)
                if (pages_[page].reading && !endRead(page)) forget(page);
    for (PageId page : moved_) forget(page);
    std::erase_if(departing_, [&](const Move& move) { return slotOf(move.to).page == kNoPage; });
    for (PageId page : turn_) {
        pages_[page].turn = {};
        if (!touched_.empty()) entry_[page] = UINT64_MAX;
    }
    for (Slot* slot : touched_) slot->busy_until = last_value_;
    touched_.clear();
    moved_.clear();
    resident_.clear();
    coming_.clear();
    waiting_.clear();
    wave_.clear();
    turn_.clear();
}

}  // namespace v1
}  // namespace vkmoe
