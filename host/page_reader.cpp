#include "host/page_reader.h"

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

}  // namespace

// Where the system refuses a thread, or memory for it, those that there are do the work, or the threads that wait for it.
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
        work_.wait(lock, [&] { return stop_ || (page = next()); });
        if (stop_) return;
        read(lock, *page, scratch);
    }
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
    Job& job = jobs_.at(page);  // stays where it is: jobs are erased only before they begin or when they are done
    job.begun = true;
    count(true);
    if (job.announced) --announced_;
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
    ++total_.pages;
    total_.bytes += store_.sourceBytes(page);
    job.outcome = std::move(outcome);
    done_.notify_all();
}

}  // namespace v1
}  // namespace vkmoe
