// For tests of paging.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <utility>

#include "vkmoe/stack.h"

namespace test {

// Placements, and whether transfers have a queue.
inline constexpr std::pair<vkmoe::Placement, bool> kPlacements[] = {
    {vkmoe::Placement::flat, false}, {vkmoe::Placement::tiered, false}, {vkmoe::Placement::tiered, true}};

// Bytes of a slot that holds any page of the model.
inline uint64_t slotBytes(vkmoe::Engine& engine, const vkmoe::formats::ModelSource& model) {
    auto stack = vkmoe::Stack::create(engine, model, vkmoe::PagingOptions{});
    REQUIRE(stack);
    return stack->pager()->slotBytes();
}

}  // namespace test
