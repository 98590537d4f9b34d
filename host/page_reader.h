// PageReader: threads that read pages of a store into memory, several at a time; what is waited for goes before what is
// read ahead.
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
    ~PageReader();  // drops what has not begun, waits for what has
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
        std::optional<Result<void>> outcome = {};
    };
    void run();
    std::optional<PageId> next();          // with the mutex held
    std::optional<PageId> announceNext();  // with the mutex held
    void read(std::unique_lock<std::mutex>& lock, PageId page, std::vector<std::byte>& scratch);
    void count(bool begins);  // with the mutex held

    const PageStore& store_;
    mutable std::mutex mutex_;
    std::condition_variable work_, done_;
    std::deque<PageId> needed_, ahead_;  // may name jobs that are gone or have begun
    std::unordered_map<PageId, Job> jobs_;
    Work total_;
    uint32_t reading_ = 0;
    uint32_t announced_ = 0;  // of those that have not begun
    double since_ = 0;        // when reading_ last became 1
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace v1
}  // namespace vkmoe
