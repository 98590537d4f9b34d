#include "host/page_reader.h"

#include <algorithm>
#include <cassert>
#include <new>
#include <system_error>

#include "host/clock.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Pages that the disk may fetch while those before them are put together: with fewer it rests now and then. Of those
// that are read ahead fewer, for what is needed suddenly waits behind them.
constexpr uint32_t kAnnounced = 6, kAnnouncedAhead = 2;
// Neighbours that are read part by part, of which none is there before nearly all are. Fewer than the least are read
// page by page, announced.
constexpr uint64_t kRunBytes = uint64_t{64} << 20;
constexpr uint32_t kLeastRun = 8;

}  // namespace

// Where the system refuses a thread, or memory for it, those that there are do the work, or the threads that wait for
// it.
PageReader::PageReader(const PageStore& store, uint32_t threads) : store_(store) {
    try {
        for (uint32_t i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
}

PageReader::~PageReader() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void PageReader::request(PageId page, std::span<std::byte> into, Urgency urgency) {
    {
        std::lock_guard lock(mutex_);
        assert(jobs_.count(page) == 0);
        if (!threads_.empty()) (urgency == Urgency::needed ? needed_ : ahead_).push_back(page);
        jobs_.emplace(page, Job{into, urgency});  // if it throws, a number without a job is left, which is skipped
    }
    work_.notify_one();
}

void PageReader::hurry(PageId page) {
    std::lock_guard lock(mutex_);
    auto job = jobs_.find(page);
    if (job == jobs_.end() || job->second.begun || job->second.urgency == Urgency::needed) return;
    job->second.urgency = Urgency::needed;
    if (!threads_.empty()) needed_.push_back(page);
}

bool PageReader::cancel(PageId page) {
    std::lock_guard lock(mutex_);
    auto job = jobs_.find(page);
    if (job == jobs_.end() || job->second.begun) return false;
    if (job->second.announced) --announced_;
    jobs_.erase(job);
    return true;
}

Result<void> PageReader::wait(PageId page) {
    std::unique_lock lock(mutex_);
    auto job = jobs_.find(page);
    assert(job != jobs_.end());
    std::vector<std::byte> scratch;
    if (threads_.empty() && !job->second.begun) read(lock, page, scratch);
    done_.wait(lock, [&] { return job->second.outcome.has_value(); });
    Result<void> outcome = std::move(*job->second.outcome);
    jobs_.erase(job);
    return outcome;
}

std::optional<Result<void>> PageReader::take(PageId page) {
    std::lock_guard lock(mutex_);
    auto job = jobs_.find(page);
    assert(job != jobs_.end());
    if (!job->second.outcome) return std::nullopt;
    std::optional<Result<void>> outcome = std::move(job->second.outcome);
    jobs_.erase(job);
    return outcome;
}

PageReader::Work PageReader::work() const {
    std::lock_guard lock(mutex_);
    Work work = total_;
    if (reading_ > 0) work.seconds += secondsNow() - since_;
    return work;
}

std::optional<PageId> PageReader::next() {
    for (auto* queue : {&needed_, &ahead_}) {
        while (!queue->empty()) {
            PageId page = queue->front();
            queue->pop_front();
            auto job = jobs_.find(page);
            if (job != jobs_.end() && !job->second.begun) return page;
        }
    }
    return std::nullopt;
}

void PageReader::count(bool begins) {
    if (begins && reading_++ == 0) since_ = secondsNow();
    if (!begins && --reading_ == 0) total_.seconds += secondsNow() - since_;
}

void PageReader::run() {
    std::vector<std::byte> scratch;
    std::unique_lock lock(mutex_);
    for (;;) {
        std::optional<PageId> page;
        work_.wait(lock, [&] { return stop_ || !run_.taken() || (page = next()); });
        if (stop_) return;
        if (page) {
            run_ = runFrom(*page);
            if (run_.pages < kLeastRun) {
                run_ = {};
                read(lock, *page, scratch);
                continue;
            }
            for (uint32_t i = 0; i < run_.pages; ++i) begin(run_.first + i, run_.parts);
            work_.notify_all();
        }
        readOfRun(lock, scratch);
    }
}

PageReader::Run PageReader::runFrom(PageId first) const {
    auto waits = [&](PageId page) {
        auto job = jobs_.find(page);
        return job != jobs_.end() && !job->second.begun && job->second.urgency == Urgency::needed;
    };
    const PageStore::Row row = store_.row(first);
    const uint64_t most =
        std::min<uint64_t>(row.end - first, kRunBytes / std::max<uint64_t>(store_.sourceBytes(first), 1));
    Run run{.first = first, .parts = row.parts};
    while (run.pages < most && waits(first + run.pages)) ++run.pages;
    return run;
}

void PageReader::begin(PageId page, uint32_t parts) {
    Job& job = jobs_.at(page);
    job.begun = true;
    job.parts_left = parts;
    if (job.announced) --announced_;
}

// Of one part. A page's error is that of its first part that has one.
void PageReader::end(PageId page, uint32_t part, Result<void> outcome) {
    Job& job = jobs_.at(page);
    if (!outcome && part < job.failed_part) {
        job.failed_part = part;
        job.so_far = std::move(outcome);
    }
    if (--job.parts_left > 0) return;
    ++total_.pages;
    total_.bytes += store_.sourceBytes(page);
    job.outcome = std::move(job.so_far);
    done_.notify_all();
}

// The next page that the disk should begin with, if it has not enough to do.
std::optional<PageId> PageReader::announceNext() {
    for (auto* queue : {&needed_, &ahead_}) {
        if (stop_ || announced_ >= (queue == &needed_ ? kAnnounced : kAnnouncedAhead)) return std::nullopt;
        for (PageId page : *queue) {
            auto job = jobs_.find(page);
            if (job == jobs_.end() || job->second.begun || job->second.announced) continue;
            job->second.announced = true;
            ++announced_;
            return page;
        }
    }
    return std::nullopt;
}

void PageReader::read(std::unique_lock<std::mutex>& lock, PageId page, std::vector<std::byte>& scratch) {
    const Job& job = jobs_.at(page);  // stays where it is: jobs are erased only before they begin or when they are done
    begin(page, 1);
    count(true);
    std::optional<PageId> coming = job.announced ? announceNext() : page;
    for (int left = 2; coming; coming = --left > 0 ? announceNext() : std::nullopt) {
        lock.unlock();
        store_.announce(*coming);
        lock.lock();
    }
    lock.unlock();
    Result<void> outcome = store_.read(page, job.into, scratch);
    lock.lock();
    count(false);
    end(page, 0, std::move(outcome));
}

void PageReader::readOfRun(std::unique_lock<std::mutex>& lock, std::vector<std::byte>& scratch) {
    const PageId page = run_.first + run_.page;
    const uint32_t part = run_.part;
    if (++run_.page == run_.pages) {
        run_.page = 0;
        ++run_.part;
    }
    const std::span<std::byte> into = jobs_.at(page).into;
    count(true);
    lock.unlock();
    Result<void> outcome = store_.readPart(page, part, into, scratch);
    lock.lock();
    count(false);
    end(page, part, std::move(outcome));
}

}  // namespace v1
}  // namespace vkmoe
