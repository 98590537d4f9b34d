// The experts of a mixture whose pages come in waves: the same for layers, stacks and language models.
#pragma once

#include <span>
#include <vector>

#include "engine/moe/forward_pass.h"
#include "host/pager.h"

namespace vkmoe {
inline namespace v1 {

class HostExperts;

// A mixture's part of a batch, as its head has left it.
struct ExpertTurn {
    const ForwardPass* pass = nullptr;
    const Workspace* workspace = nullptr;
    uint32_t tokens = 0;
    PageId first_page = 0;  // expert 0's
};

// The pages of a group whose first is `first_page` for `experts` as routes list them: each once, in ascending order; a
// number that is no expert's has none.
std::vector<PageId> pagesOf(PageId first_page, uint32_t group_size, std::span<const uint32_t> experts);

// Brings `pages` and records the experts' work, submitting all but the last wave of it. What the pager leaves to `host`
// (null: nothing) is computed here while the device has the rest of the wave.
Result<void> runExperts(Commands& commands, Pager& pager, HostExperts* host, const ExpertTurn& turn,
                        std::span<const PageId> pages);

}  // namespace v1
}  // namespace vkmoe
