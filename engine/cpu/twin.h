// What every CPU twin needs: the invocations of a range of workgroups, and the status word.
#pragma once

#include <algorithm>
#include <atomic>

#include "engine/ceil_div.h"
#include "engine/cpu/twins.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {

// Calls body(i) for every invocation of the groups whose index is below `count`.
template <class Body>
void eachThread(Groups groups, uint64_t count, const Body& body) {
    uint64_t end = std::min<uint64_t>(groups.end * kWorkgroup, count);
    for (uint64_t i = groups.begin * kWorkgroup; i < end; ++i) body(static_cast<uint32_t>(i));
}

struct TokenRange {
    uint64_t begin, end;
};

// The tokens, below `tokens`, of groups in which c.lanes threads share one.
inline TokenRange tokensOf(Groups groups, const Constants& c, uint32_t tokens) {
    const uint64_t group_tokens = kWorkgroup / c.lanes;
    return {groups.begin * group_tokens, std::min<uint64_t>(groups.end * group_tokens, tokens)};
}

// Counts a value that may not be stored, and keeps the smallest index (as its complement).
inline void flag(U32 status, uint32_t index) {
    std::atomic_ref(status.at[0]).fetch_add(1, std::memory_order_relaxed);
    std::atomic_ref first(status.at[1]);
    uint32_t seen = first.load(std::memory_order_relaxed);
    while (seen < ~index && !first.compare_exchange_weak(seen, ~index, std::memory_order_relaxed)) {
    }
}

inline float checked(float x, U32 status, uint32_t index) {
    if (out_of_range(x)) flag(status, index);
    return x;
}

inline uint32_t halfAt(const uint32_t* words, uint32_t i) {
    return (i & 1u) == 0 ? words[i >> 1] & 0xffffu : words[i >> 1] >> 16;
}

inline float decodeHalf(uint32_t half, uint32_t format) {
    return format == kF16 ? f16_decode(half) : bf16_decode(half);
}

// Element i of an array in a storage format, as f32.
inline float decodeElement(const uint32_t* words, uint32_t i, uint32_t format) {
    return format == kF32 ? uintBitsToFloat(words[i]) : decodeHalf(halfAt(words, i), format);
}

}  // namespace v1
}  // namespace vkmoe
