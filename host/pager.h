// Pager: pages of a store in memory that kernels read, within two budgets, and the page tables that say where.
//
// Tier 1 is device memory, tier 2 host memory that the device reads, tier 3 the store. Kernels find a page through
// their group's table and never care which tier it names; a null entry means "not in this wave" and they leave that
// page's work alone. Tables change in queue order, so that a kernel never sees a page that is being filled.
//
// Everything fits (allResident after preload): nothing is read any more, and work is recorded without a host wait:
//
//     VKMOE_CHECK(pager.rebalance(commands));       // hot pages to tier 1, as the noted history says
//     ... dispatches ...
//     VKMOE_TRY(value, pager.submit(commands));
//     ... later: pager.note(group, pages used) ...
//
// Else the pages of a turn come in waves, of which each is usable until the next:
//
//     VKMOE_CHECK(pager.start(pages));
//     while (!pager.done()) {
//         VKMOE_CHECK(pager.next(commands));        // waits for reads; records copies and table entries
//         ... dispatches over all pages: those of other waves are null ...
//         ... if (!pager.done()) pager.submit(commands) ...
//     }
//
// Copies between the tiers are recorded before the work that wants them, or, with a transfer queue, run beside it: a
// page is used where it is until its copy has arrived.
//
// One thread at a time. Slots are reused only when the device's timeline has passed their last use.
#pragma once

#include <functional>
#include <memory>

#include "host/page_groups.h"
#include "host/page_reader.h"
#include "host/slots.h"

namespace vkmoe {
inline namespace v1 {

// Pages whose addresses stand in one table: entry i, 8 bytes, of its i-th page.
struct PageGroup {
    uint32_t pages = 0;
    const Buffer* table = nullptr;
};

// Whether tier 1 is worth copying to.
enum class Placement {
    automatic,  // tiered on devices with memory of their own, else flat
    tiered,     // pages are read into tier 2 and copied to tier 1 when they are worth it
    flat,       // both tiers are one memory: pages are read into a slot of either and stay there
};

struct PagerOptions {
    uint64_t device_budget = 0, host_budget = 0;  // bytes of pages in tier 1 and tier 2
    Policy policy = Policy::automatic;
    Placement placement = Placement::automatic;
    bool prefetch = true;
    uint32_t readers = 3;  // threads that read
    uint32_t unit = 1;     // pages that are needed together at most
    // What a use in tier 1 saves, where tier 2 would have served, in times that a copy between the tiers costs. Copies
    // that gain less than they cost end for a while.
    double gain = 1;
    bool host_reads = false;  // pages may be left to the host: slots that are mapped are fast to read there
    // Pages go to tier 1 on the device's transfer queue, where it has one and the store is not written to.
    bool transfer_queue = false;
};

struct PagerCounters {
    uint64_t tier1 = 0, tier2 = 0, tier3 = 0;  // uses of a page, by where it was when its turn came
    uint64_t bytes_read = 0, bytes_copied = 0, bytes_written = 0;
    uint64_t evictions = 0;      // pages that left memory
    uint64_t host_computed = 0;  // uses that were left to the host
    uint64_t waves = 0;
    uint64_t read_waits = 0;                     // times the host waited for a page to be read
    double read_wait_seconds = 0;                // ... and how long
    uint64_t prefetched = 0, prefetch_used = 0;  // pages read ahead, and how many of them were used before they left
    uint64_t prefetch_late = 0;                  // of those used: still being read when their turn came
};

class Pager {
public:
    // The store's pages in the order of the groups. The budgets count whole slots, of the size of the largest page, and
    // take no more than four fifths of the memory that is free;
    // tiered placement adds staging, two slots or a unit's, where the host budget has fewer.
    // Errors: out_of_memory if not one page fits the budgets or the device.
    static Result<std::unique_ptr<Pager>> create(Device& device, std::unique_ptr<PageStore> store,
                                                 std::vector<PageGroup> groups, const PagerOptions& options);
    ~Pager();

    // At the start of a call, which may follow one that failed: what was recorded and never submitted did not happen,
    // and what it moved is read again.
    Result<void> begin();

    // Reads all pages if they fit, else nothing. `progress` is told pages done and all; false cancels.
    Result<void> preload(const std::function<bool(uint64_t, uint64_t)>& progress = {});
    bool allResident() const { return all_resident_; }
    Result<void> rebalance(Commands& commands);
    // Group `group` used these pages, in a pass that needed no turn.
    void note(uint32_t group, std::span<const PageId> pages);

    // A turn for these pages, each once; `unit` consecutive ones are needed together. Bit i of `changes`: the work
    // writes the i-th page of each unit.
    Result<void> start(std::span<const PageId> pages, uint32_t unit = 1, uint32_t changes = 0);
    // The next wave, which done() must have said there is.
    Result<void> next(Commands& commands);
    bool done() const { return resident_.empty() && coming_.empty() && waiting_.empty(); }
    std::span<const PageId> wave() const { return wave_; }
    // Submits work, which may have been recorded with pages, and empties the list. Every submit of a call goes this
    // way.
    Result<uint64_t> submit(Commands& commands);

    // After start(): this page of the turn, which tier 1 does not hold, is left to the host, which reads it in its wave
    // at slotHolding(page); its entry stays null.
    void leaveToHost(PageId page);
    bool leftToHost(PageId page) const { return pages_[page].turn.host; }
    // A page of the turn comes to tier 1 if it is worth more: -infinity where a slot is free, infinity where none may
    // be taken.
    double promotionBar() const;

    bool prefetches() const { return prefetch_ && !all_resident_; }
    // Pages that may be needed soon are read while nothing else is: those that the caller thinks of, into whatever slot
    // is worth least; or those that the next visit of a group is likely to use as its history goes, into slots whose
    // pages are worth less. Whoever guesses badly is not listened to for a while: of the caller readsAhead() is false.
    bool readsAhead() const { return prefetches() && told_.pause == 0; }
    void readAhead(std::span<const PageId> pages) { readAhead(pages, Guess::told); }
    void readLikely(uint32_t group);

    // Residency::pin.
    void pin(std::span<const PageId> pages) { residency_->pin(pages); }

    // Writes every changed page back to the store.
    Result<void> writeBack();

    uint64_t address(PageId page) const;         // 0: not in memory
    const Slot* slotHolding(PageId page) const;  // what kernels read; null: not in memory
    const PageGroups& groups() const { return index_; }
    const PageStore& store() const { return *store_; }
    const Residency& residency() const { return *residency_; }
    PagerCounters counters() const;
    PageReader::Work reading() const { return reader_->work(); }
    uint64_t slotBytes() const { return slot_bytes_; }
    uint32_t slots(int tier) const { return tiers_[tier].size(); }            // tier 0: device, 1: host
    uint64_t bytes() const { return tiers_[0].bytes() + tiers_[1].bytes(); }  // of all slots
    bool flat() const { return flat_; }
    bool usesTransferQueue() const { return beside_; }
    // For displays: the tier (0, 1) of the page, or -1.
    int tierOf(PageId page) const;

private:
    enum class Guess : uint8_t { none, told, history };
    // What guesses of a kind have been good for, lately.
    struct Trial {
        static constexpr uint64_t kPages = 64;    // until it is judged
        static constexpr uint32_t kPause = 2000;  // turns, after a bad one
        uint64_t issued = 0, used = 0;
        uint32_t pause = 0;  // turns for which none is followed
        void judge();
    };
    struct Page {
        int32_t slot[2] = {-1, -1};
        bool reading = false;       // on its way into the slot it has
        Guess ahead = Guess::none;  // was read ahead and not used yet
        bool promoted = false;      // another had to leave the tier 1 slot it has
        bool arriving = false;      // its copy to tier 1 is under way: it is still used in tier 2
        bool dirty = false;
        // What the turn wants of it, whatever slot it is in, until its wave is over.
        struct {
            bool needed = false;   // while false, it may lose its slot
            bool now = false;      // it is of the wave
            bool host = false;     // it is the host's
            bool changes = false;  // work writes it
        } turn;
        bool resident() const { return !reading && (slot[0] >= 0 || slot[1] >= 0); }
    };
    struct Place {
        int tier = -1;
        uint32_t slot = 0;
        explicit operator bool() const { return tier >= 0; }
    };
    using Unit = std::vector<PageId>;

    Pager(Device& device, std::unique_ptr<PageStore> store, std::vector<PageGroup> groups, const PagerOptions& options);
    Result<void> allocate(const PagerOptions& options);

    // ---- slots
    Result<Place> acquire(bool may_wait);
    Place aheadSlot(PageId page, Guess guess);
    Trial& trialOf(Guess guess) { return guess == Guess::told ? told_ : history_; }
    void readAhead(std::span<const PageId> pages, Guess guess);
    Place freeSlot(uint64_t passed, bool any_time);
    Place victim(uint64_t passed, bool any_time);
    Result<void> clear(Place place);
    Result<void> keepChanges(PageId page);
    Slot& slotOf(Place place) { return tiers_[place.tier][place.slot]; }
    void forget(PageId page);
    bool dropOneAhead();
    bool readsInto(int tier) const { return flat_ || tier == 1; }
    // ---- reading
    void comes(PageId page, Place place);
    Result<bool> requestUnit(const Unit& unit, bool may_wait);
    Result<void> requestMore(bool may_wait);
    void yieldWaiting();
    bool endRead(PageId page);
    Result<void> finishRead(PageId page, Result<void> outcome);
    void collectAhead();
    Result<void> waitFor(const Unit& unit);
    void abandon();
    // ---- moving
    struct Move {
        Place from, to;
    };
    void promote(PageId page, std::vector<Move>& out, std::vector<Move>& in);
    void dropOldCopies();
    Place promotionSlot(double worth) const;
    bool makeWay(Place place, std::vector<Move>& out);
    Place demotionSlot(double worth);
    void recordMoves(Commands& commands, const std::vector<Move>& out, const std::vector<Move>& in);
    size_t flying() const;
    Result<void> startTransfers();
    Result<void> land();
    void land(uint64_t transferred);
    Result<bool> landOne();
    void recordTable(Commands& commands);
    void publish(Commands& commands);
    void setEntries(Commands& commands, std::vector<PageId> changed);
    void hold(Slot& slot);
    void hold(PageId page);
    void visit(std::span<const PageId> pages, uint32_t unit);
    void use(PageId page);
    void count(PageId page);
    void judgeCopies();
    void endWave();
    Result<void> bringAll(const std::function<bool(uint64_t, uint64_t)>& progress);

    Device& device_;
    std::unique_ptr<PageStore> store_;
    std::vector<PageGroup> tables_;
    PageGroups index_;
    std::vector<Page> pages_;
    std::vector<uint64_t> entry_;  // [pages] what the table will hold once all recorded work has run
    Slots tiers_[2];
    std::unique_ptr<Residency> residency_;
    std::unique_ptr<PageReader> reader_;
    uint64_t slot_bytes_ = 256;
    bool flat_ = true, prefetch_ = true, all_resident_ = false, beside_ = false;
    bool was_resident_ = false;  // everything was, once
    double gain_ = 1;
    PagerCounters counters_;
    // The turn:
    std::vector<PageId> turn_, wave_;
    std::vector<Unit> resident_, coming_, waiting_;  // units in memory, on their way, without slots
    bool quiet_ = false;                             // preload's turn: not counted, not told the policy, evicts nothing
    std::vector<Slot*> touched_;                     // since the last submit
    uint64_t last_value_ = 0;                        // the last submit
    std::vector<PageId> moved_;                      // ... by recorded copies, or to be by transfers
    struct Flight {
        uint64_t value = 0;  // of the transfer
        std::vector<Move> moves;
    };
    std::vector<Move> departing_;  // to be transferred when the work that made way is submitted
    std::vector<Flight> flights_;  // on their way
    uint64_t landed_ = 0;          // the next submit awaits it
    bool unsubmitted_ = false;     // a pass was recorded since the last submit
    std::vector<PageId> ahead_;    // being read ahead
    Trial told_, history_;
    uint64_t trial_copies_ = 0, trial_hits_ = 0;  // of copies between the tiers, lately, and what they gained
    uint32_t copy_pause_ = 0;                     // turns for which nothing is copied to a tier 1 that is full
};

}  // namespace v1
}  // namespace vkmoe
