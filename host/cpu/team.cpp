#include "host/cpu/team.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "host/cpu/float_environment.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// TSan does not see how oneTBB, which is not instrumented, hands a task to another thread.
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define VKMOE_TELL_TSAN(what) what(this)
#else
#define VKMOE_TELL_TSAN(what)
#endif

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr int kSpins = 2000;  // before a helper sleeps, or a leader lets others run

void pause() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

}  // namespace

void Team::share(size_t helpers, const Loop& loop) {
    helpers = std::min(helpers, threads_ - 1);
    call(helpers);
    {
        tbb::spin_mutex::scoped_lock lock(mutex_);
        loop_ = &loop;
        places_ = helpers;
    }
    announce();
    run(loop, 0);
    for (int i = 0; helping_.load(std::memory_order_acquire) != 0; ++i)
        i < kSpins ? pause() : std::this_thread::yield();
    if (failed_) std::rethrow_exception(std::exchange(failed_, nullptr));
}

void Team::call(size_t helpers) {
    if (called_ >= helpers) return;
    over_ = false;
    VKMOE_TELL_TSAN(__tsan_release);
    arena_.execute([&] {
        for (; called_ < helpers; ++called_) helpers_.run(Helper{this});
    });
}

void Team::Helper::operator()() const { team->follow(); }

void Team::dismiss() {
    if (std::exchange(called_, 0) == 0) return;
    over_ = true;
    announce();
    arena_.execute([&] { helpers_.wait(); });
}

void Team::announce() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
}

void Team::follow() {
    VKMOE_TELL_TSAN(__tsan_acquire);
    FloatEnvironment environment;
    for (;;) {
        int seen = round_.load(std::memory_order_acquire);
        if (over_) return;
        if (const auto* loop = join()) {
            run(*loop, size_t(std::max(1, tbb::this_task_arena::current_thread_index())));
            helping_.fetch_sub(1, std::memory_order_release);
        }
        await(seen);
    }
}

// The loop that the calling thread now works in, null if there is none with a place for it.
const Team::Loop* Team::join() {
    if (places_.load(std::memory_order_relaxed) == 0) return nullptr;
    tbb::spin_mutex::scoped_lock lock(mutex_);
    if (!loop_ || places_ == 0) return nullptr;
    --places_;
    ++helping_;
    return loop_;
}

void Team::run(const Loop& loop, size_t place) {
    std::exception_ptr failed;
    try {
        loop(place);
    } catch (...) {
        failed = std::current_exception();
    }
    tbb::spin_mutex::scoped_lock lock(mutex_);
    loop_ = nullptr;
    if (failed) failed_ = failed;
}

void Team::await(int seen) const {
    for (int i = 0; i < kSpins; ++i) {
        if (round_.load(std::memory_order_acquire) != seen) return;
        pause();
    }
    round_.wait(seen, std::memory_order_acquire);
}

}  // namespace v1
}  // namespace vkmoe
