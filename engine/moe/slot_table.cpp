#include "engine/moe/slot_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace vkmoe {
inline namespace v1 {

SlotTable SlotTable::of(std::span<const uint32_t> selected, uint32_t width, uint32_t experts) {
    SlotTable table{std::vector<uint32_t>(size_t{experts} + 1), {}};
    for (const uint32_t expert : selected)
        if (expert < experts) ++table.offsets[size_t{expert} + 1];
    std::partial_sum(table.offsets.begin(), table.offsets.end(), table.offsets.begin());
    table.token_of.resize(table.offsets.back());
    std::vector<uint32_t> next(table.offsets.begin(), table.offsets.end() - 1);
    for (size_t a = 0; a < selected.size(); ++a)
        if (selected[a] < experts) table.token_of[next[selected[a]]++] = uint32_t(a / width);
    return table;
}

std::string SlotTable::place(uint64_t slot, uint64_t first_token) const {
    const auto after = std::upper_bound(offsets.begin(), offsets.end(), slot);
    if (after == offsets.begin() || after == offsets.end() || slot >= token_of.size())
        return fmt::format("slot {}", slot);
    return fmt::format("token {}, expert {}", first_token + token_of[slot], after - offsets.begin() - 1);
}

}  // namespace v1
}  // namespace vkmoe
