// What the twins of the language model's kernels share: tokens of workgroups, and where a vocabulary row lies in
// panels.
#pragma once

#include "engine/cpu/sums.h"
#include "engine/cpu/twin.h"
#include "shaders/language.h"

namespace vkmoe {
inline namespace v1 {

// Calls body(token) where a workgroup has a token.
template <class Body>
void eachToken(Groups groups, uint32_t tokens, const Body& body) {
    for (uint64_t token = groups.begin; token < std::min<uint64_t>(groups.end, tokens); ++token)
        body(static_cast<uint32_t>(token));
}

// Index of the word at column c of a row of [.., cols] f32 panels.
inline uint64_t panelWord(uint32_t row, uint32_t c, uint32_t cols) {
    return (uint64_t{row / kPanel} * cols + c) * kPanel + row % kPanel;
}

}  // namespace v1
}  // namespace vkmoe
