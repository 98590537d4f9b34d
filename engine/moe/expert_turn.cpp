#include "engine/moe/expert_turn.h"

#include <algorithm>

#include "engine/moe/host_experts.h"

namespace vkmoe {
inline namespace v1 {

std::vector<PageId> pagesOf(PageId first_page, uint32_t group_size, std::span<const uint32_t> experts) {
    std::vector<bool> seen(group_size);
    std::vector<PageId> pages;
    for (uint32_t e : experts) {
        if (e >= group_size || seen[e]) continue;
        seen[e] = true;
        pages.push_back(first_page + e);
    }
    std::sort(pages.begin(), pages.end());
    return pages;
}

Result<void> runExperts(Commands& commands, Pager& pager, HostExperts* host, const ExpertTurn& turn,
                        std::span<const PageId> pages) {
    VKMOE_CHECK(pager.start(pages));
    if (host) host->choose(pager, pages);
    while (!pager.done()) {
        VKMOE_CHECK(pager.next(commands));
        bool some = host && HostExperts::someLeft(pager), all = some && HostExperts::allLeft(pager);
        if (!all) turn.pass->recordExperts(commands, *turn.workspace, turn.tokens);
        uint64_t value = 0;
        if ((some && !all) || !pager.done()) {
            VKMOE_TRY(submitted, pager.submit(commands));
            value = submitted;
        }
        if (some) VKMOE_CHECK(host->run(commands, pager, all ? 0 : value));
    }
    return {};
}

}  // namespace v1
}  // namespace vkmoe
