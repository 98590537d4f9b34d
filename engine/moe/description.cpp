#include "vkmoe/description.h"

#include <fmt/format.h>

#include <algorithm>

namespace vkmoe {
inline namespace v1 {
namespace {

// Kernels index tensors with 32 bits, and no invocation may loop more than 65,535 times: expert_up's tile loops 104
// times for 32 columns, expert_down's 52 times, slot_stats once for each value of an output twice and for four hidden
// ones.
constexpr uint32_t kLargestModelDim = 16384, kLargestHiddenDim = 32768, kLargestExperts = 1024, kLargestGroups = 256;
constexpr uint32_t kLargestCapacityTopK = 256;  // a token's choices are one invocation's loop

Result<void> inRange(const char* field, uint64_t value, uint64_t low, uint64_t high) {
    if (value >= low && value <= high) return {};
    return Error{ErrorCode::bad_input, fmt::format("{} is {}, must be {} to {}", field, value, low, high)};
}

// Finite and with a magnitude that neither overflows nor vanishes in the kernels.
Result<void> ordinary(const char* field, float value, float low, float high) {
    if (value >= low && value <= high) return {};
    return Error{ErrorCode::bad_input, fmt::format("{} is {}, must be {} to {}", field, value, low, high)};
}

Result<void> validateGroups(const Description& d) {
    VKMOE_CHECK(inRange("groups", d.groups, 1, std::min(d.experts, kLargestGroups)));
    VKMOE_CHECK(inRange("groups_kept", d.groups_kept, 1, d.groups));
    if (d.experts % d.groups != 0)
        return Error{ErrorCode::bad_input, fmt::format("groups is {}, must divide experts = {}", d.groups, d.experts)};
    uint32_t size = d.experts / d.groups;
    if (d.groups > 1 && d.group_score == GroupScore::sum_of_top2 && size < 2)
        return Error{
            ErrorCode::bad_input,
            fmt::format("group_score is sum_of_top2, but groups = {} leaves {} expert a group", d.groups, size)};
    if (d.dispatch != Dispatch::capacity && d.top_k > size * d.groups_kept)
        return Error{ErrorCode::bad_input,
                     fmt::format("top_k is {}, but groups_kept = {} leaves {} experts to choose from", d.top_k,
                                 d.groups_kept, size * d.groups_kept)};
    return {};
}

Result<void> validateDispatch(const Description& d) {
    VKMOE_CHECK(ordinary("capacity_factor", d.capacity_factor, 0, 0x1p20f));
    VKMOE_CHECK(ordinary("tokens_per_expert_ratio", d.tokens_per_expert_ratio, 0, 0x1p20f));
    VKMOE_CHECK(ordinary("noise_std", d.noise_std, 0, 0x1p20f));
    bool budget = d.dispatch == Dispatch::fixed_budget;
    if (budget && (d.score != Score::softmax_selected || d.groups != 1 || d.selection_bias))
        return Error{ErrorCode::bad_input,
                     fmt::format("dispatch is fixed_budget, which has score softmax_selected, groups 1 and no "
                                 "selection_bias, but score is {}, groups {} and selection_bias {}",
                                 name(d.score), d.groups, d.selection_bias)};
    if (budget && d.tokens_per_expert_ratio == 0)
        return Error{ErrorCode::bad_input, "tokens_per_expert_ratio is 0, must be above 0 for fixed_budget"};
    return {};
}

}  // namespace

Result<void> validate(const Description& d) {
    VKMOE_CHECK(inRange("model_dim", d.model_dim, 1, kLargestModelDim));
    VKMOE_CHECK(inRange("hidden_dim", d.hidden_dim, 1, kLargestHiddenDim));
    VKMOE_CHECK(inRange("experts", d.experts, 1, kLargestExperts));
    VKMOE_CHECK(inRange("top_k", d.top_k, 1, d.dispatch == Dispatch::capacity ? kLargestCapacityTopK : d.experts));
    if (d.shared != Shared::none) VKMOE_CHECK(inRange("shared_dim", d.shared_dim, 1, kLargestHiddenDim));
    VKMOE_CHECK(ordinary("routed_scale", d.routed_scale, -0x1p40f, 0x1p40f));
    VKMOE_CHECK(ordinary("renormalize_epsilon", d.renormalize_epsilon, 0, 1));
    VKMOE_CHECK(validateGroups(d));
    VKMOE_CHECK(validateDispatch(d));
    if (d.activation == Activation::clamped_swiglu) {
        VKMOE_CHECK(ordinary("swiglu_limit", d.swiglu_limit, 0x1p-20f, 0x1p20f));
        VKMOE_CHECK(ordinary("swiglu_alpha", d.swiglu_alpha, 0x1p-20f, 0x1p20f));
    }
    if (!d.gated() && (d.gate_bias || d.shared_gate_bias))
        return Error{ErrorCode::bad_input, "activation is relu, which has no gate, but there is a gate bias"};
    return {};
}

const char* name(Score score) {
    switch (score) {
        case Score::softmax:
            return "softmax";
        case Score::softmax_selected:
            return "softmax_selected";
        case Score::sigmoid:
            return "sigmoid";
    }
    return "?";
}

const char* name(Activation activation) {
    switch (activation) {
        case Activation::relu:
            return "relu";
        case Activation::silu_glu:
            return "silu_glu";
        case Activation::gelu_glu:
            return "gelu_glu";
        case Activation::clamped_swiglu:
            return "clamped_swiglu";
    }
    return "?";
}

const char* name(Shared shared) {
    switch (shared) {
        case Shared::none:
            return "none";
        case Shared::plain:
            return "plain";
        case Shared::sigmoid_gated:
            return "sigmoid_gated";
    }
    return "?";
}

const char* name(SharedOrder order) { return order == SharedOrder::first ? "first" : "last"; }

const char* name(WeightFormat format) {
    switch (format) {
        case WeightFormat::f32:
            return "f32";
        case WeightFormat::f16:
            return "f16";
        case WeightFormat::bf16:
            return "bf16";
        case WeightFormat::mxfp4:
            return "mxfp4";
    }
    return "?";
}

const char* name(GroupScore score) { return score == GroupScore::max ? "max" : "sum_of_top2"; }

const char* name(Dispatch dispatch) {
    switch (dispatch) {
        case Dispatch::dropless:
            return "dropless";
        case Dispatch::capacity:
            return "capacity";
        case Dispatch::fixed_budget:
            return "fixed_budget";
    }
    return "?";
}

const char* name(Precision precision) { return precision == Precision::exact ? "exact" : "rounded"; }

}  // namespace v1
}  // namespace vkmoe
