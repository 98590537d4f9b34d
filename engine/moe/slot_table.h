// SlotTable: which token, and which of its experts, a slot of the counting sort is for: sentences about a slot name
// both.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

struct SlotTable {
    std::vector<uint32_t> offsets;   // [experts + 1] first slots
    std::vector<uint32_t> token_of;  // [slots]

    // From selected [tokens, width], as the kernels sort it (bin_tokens.comp); entries not below `experts` have no
    // slot.
    static SlotTable of(std::span<const uint32_t> selected, uint32_t width, uint32_t experts);

    // "token 5, expert 2"; tokens count from first_token. A slot that is no expert's is "slot 17".
    std::string place(uint64_t slot, uint64_t first_token) const;
};

// Asked for only where there is a sentence to write.
using SlotTables = std::function<Result<SlotTable>()>;

}  // namespace v1
}  // namespace vkmoe
