// PageReader: threads that read pages of a store into memory, several at a time; what is waited for goes before what is
// read ahead. Where many neighbours are waited for, all threads read those, part by part (PageStore::row): a file is
// read about as fast as from front to back then.
//
//     reader.request(page, slot.bytes, PageReader::Urgency::needed);
//     ... other work ...
//     VKMOE_CHECK(reader.wait(page));
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "host/page_store.h"

namespace vkmoe {
inline namespace v1 {

class PageReader {
public:
    enum class Urgency { needed, ahead };

    // Fewer threads where the system refuses them; with none, whoever waits for a page reads it.
    PageReader(const PageStore& store, uint32_t threads);
    ~PageReader();  // drops what no thread has taken, waits for the rest
    PageReader(const PageReader&) = delete;
    PageReader& operator=(const PageReader&) = delete;

    // Starts reading `page` into `into`, which stays as it is until wait() or a take() that gives a result. A page is
    // requested once at a time.
    void request(PageId page, std::span<std::byte> into, Urgency urgency);
    // A page that was requested ahead is needed now.
    void hurry(PageId page);
    // Gives up a page that was requested and has not begun; false: it has (or is read already).
    bool cancel(PageId page);
    // Waits until the page is read.
    Result<void> wait(PageId page);
    // The outcome if the page is read; no value: not yet.
    std::optional<Result<void>> take(PageId page);

    // What was read so far, and for how long at least one read was under way.
    struct Work {
        uint64_t pages = 0, bytes = 0;
        double seconds = 0;
    };
    Work work() const;

private:
    struct Job {
        std::span<std::byte> into;
        Urgency urgency;
        bool announced = false, begun = false;
        uint32_t parts_left = 1;  // once it has begun
        uint32_t failed_part = UINT32_MAX;
        Result<void> so_far = {};
        std::optional<Result<void>> outcome = {};
    };
    // Neighbours that are being read, and the next part of one that no thread has taken.
    struct Run {
        PageId first = 0;
        uint32_t pages = 0, parts = 0, page = 0, part = 0;
        bool taken() const { return part == parts; }
    };
    void run();
    // With the mutex held:
    std::optional<PageId> next();
    Run runFrom(PageId first) const;
    std::optional<PageId> announceNext();
    void begin(PageId page, uint32_t parts);
    void end(PageId page, uint32_t part, Result<void> outcome);
    void count(bool begins);
    void read(std::unique_lock<std::mutex>& lock, PageId page, std::vector<std::byte>& scratch);
    void readOfRun(std::unique_lock<std::mutex>& lock, std::vector<std::byte>& scratch);

    const PageStore& store_;
    mutable std::mutex mutex_;
    std::condition_variable work_, done_;
    std::deque<PageId> needed_, ahead_;  // may name jobs that are gone or have begun
    std::unordered_map<PageId, Job> jobs_;
    Run run_;
    Work total_;
    uint32_t reading_ = 0;
    uint32_t announced_ = 0;  // of those that have not begun
    double since_ = 0;        // when reading_ last became 1
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace v1
}  // namespace vkmoe
