// zml's fixed-budget dispatch of GPT-OSS, for comparisons with it only: every expert takes the same number of tokens,
// and gates are not those of the exact dispatch even where no token is left out. It needs the logits of all tokens of a
// call at once, so it is decided on the host, between two passes.
//
// Source: zml examples/gpt_oss. Its other two algorithms (per token, all to all) are the dropless dispatch.
#pragma once

#include <optional>
#include <span>

#include "vkmoe/layer.h"

namespace vkmoe {
inline namespace v1 {

// Tokens each expert takes of a call of `tokens`, or nothing where zml chooses an exact algorithm: for one token, and
// where the budget trunc(ratio * tokens * top_k / experts), rounded up to a multiple of 8, exceeds 2/3 of the tokens.
// A budget of 0 is zml's assertion.
std::optional<uint32_t> tokensPerExpert(const Description& description, uint64_t tokens);

// Who takes whom, from logits [tokens, experts]: a token's experts ascend, its row ends with kAbsent.
Routes fixedBudgetRoutes(const Description& description, std::span<const float> logits, uint32_t budget);

}  // namespace v1
}  // namespace vkmoe
