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

constexpr int kSpins = 2000;  // before a helper sleeps or goes, or a leader lets others run

void pause() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

}  // namespace

Team::~Team() noexcept {
    if (arena_.is_active()) arena_.execute([&] { helpers_.wait(); });
}

void Team::share(size_t helpers, const Loop& loop) {
    helpers = std::min({helpers, threads_ - 1, size_t(kPlace - 1)});
    call(helpers);
    loop_ = &loop;
    nextRound(helpers);
    run(0);
    uint64_t state = state_.fetch_and(~(kRound - kPlace), std::memory_order_acquire);  // no place is free from now on
    for (int i = 0; helpersOf(state) != 0; ++i, state = state_.load(std::memory_order_acquire))
        i < kSpins ? pause() : std::this_thread::yield();
    if (failed_) std::rethrow_exception(std::exchange(failed_, nullptr));
}

// Helpers may go meanwhile, which the next call makes good.
void Team::call(size_t helpers) {
    if (called_ >= helpers) return;
    VKMOE_TELL_TSAN(__tsan_release);
    arena_.execute([&] {
        for (size_t called = called_; called < helpers; ++called) {
            ++called_;
            try {
                helpers_.run(Helper{this});
            } catch (...) {
                --called_;
                throw;
            }
        }
    });
}

void Team::Helper::operator()() const { team->follow(); }

void Team::dismiss() {
    leading_ = false;
    if (called()) nextRound(0);
}

// None is at work, and no place is free: no other thread changes the state.
void Team::nextRound(uint64_t places) {
    const uint64_t round = roundOf(state_.load(std::memory_order_relaxed)) + 1;
    state_.store(round * kRound + places * kPlace, std::memory_order_release);
    rounds_ = int(uint32_t(round));  // not merely released: notify_all looks for those who sleep after it
    rounds_.notify_all();
}

void Team::follow() {
    VKMOE_TELL_TSAN(__tsan_acquire);
    FloatEnvironment environment;
    uint64_t state = 0;
    do {
        state = state_.load(std::memory_order_acquire);
        if (!join(state)) continue;
        run(size_t(std::max(1, tbb::this_task_arena::current_thread_index())));
        leave();
    } while (await(roundOf(state)));
    --called_;
}

// Takes a place in the loop, if there is one still.
bool Team::join(uint64_t state) {
    while (placesOf(state) != 0)
        if (state_.compare_exchange_weak(state, state - kPlace + kHelper, std::memory_order_acquire)) return true;
    return false;
}

// From a loop in which nothing is left to do: no place is free from now on.
void Team::leave() {
    uint64_t state = state_.load(std::memory_order_relaxed);
    while (!state_.compare_exchange_weak(state, roundOf(state) * kRound + helpersOf(state) - kHelper,
                                         std::memory_order_release)) {
    }
}

void Team::run(size_t place) {
    try {
        (*loop_)(place);
    } catch (...) {
        tbb::spin_mutex::scoped_lock lock(failing_);
        failed_ = std::current_exception();
    }
}

// For the round after this one; false: there may be none.
bool Team::await(uint64_t round) const {
    for (int i = 0; i < kSpins; ++i) {
        if (roundOf(state_.load(std::memory_order_acquire)) != round) return true;
        pause();
    }
    if (!leading_) return false;
    rounds_.wait(int(uint32_t(round)));
    return true;
}

}  // namespace v1
}  // namespace vkmoe
