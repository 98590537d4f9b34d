#include "vkmoe/description.h"

#include <fmt/format.h>

#include <cmath>

namespace vkmoe {
inline namespace v1 {
namespace {

// Kernels index tensors with 32 bits and no invocation loops more than 32,768 times.
constexpr uint32_t kLargestDim = 16000, kLargestExperts = 1024;

Result<void> inRange(const char* field, uint64_t value, uint64_t low, uint64_t high) {
    if (value >= low && value <= high) return {};
    return Error{ErrorCode::bad_input, fmt::format("{} is {}, must be {} to {}", field, value, low, high)};
}

Result<void> notYet(bool wanted, const char* field, const char* value) {
    if (!wanted) return {};
    return Error{ErrorCode::unsupported, fmt::format("{} {} is not supported by this version", field, value)};
}

}  // namespace

Result<void> validate(const Description& d) {
    VKMOE_CHECK(inRange("model_dim", d.model_dim, 1, kLargestDim));
    VKMOE_CHECK(inRange("hidden_dim", d.hidden_dim, 1, kLargestDim));
    VKMOE_CHECK(inRange("experts", d.experts, 1, kLargestExperts));
    VKMOE_CHECK(inRange("top_k", d.top_k, 1, d.experts));
    if (d.shared != Shared::none) VKMOE_CHECK(inRange("shared_dim", d.shared_dim, 1, kLargestDim));
    if (!(std::fabs(d.routed_scale) < 0x1p40f))
        return Error{ErrorCode::bad_input,
                     fmt::format("routed_scale is {}, its size must be below 2^40", d.routed_scale)};
    if (!(d.renormalize_epsilon >= 0 && d.renormalize_epsilon < 1))
        return Error{ErrorCode::bad_input,
                     fmt::format("renormalize_epsilon is {}, must be 0 to 1", d.renormalize_epsilon)};
    VKMOE_CHECK(notYet(d.score == Score::sigmoid, "score", "sigmoid"));
    VKMOE_CHECK(notYet(d.groups != 1 || d.groups_kept != 1, "groups", "above 1"));
    VKMOE_CHECK(notYet(d.activation == Activation::gelu_glu, "activation", "gelu_glu"));
    VKMOE_CHECK(notYet(d.activation == Activation::clamped_swiglu, "activation", "clamped_swiglu"));
    VKMOE_CHECK(notYet(d.shared == Shared::sigmoid_gated, "shared", "sigmoid_gated"));
    bool mixed = (d.gated() && d.gate_bias != d.up_bias) || (d.gated() && d.shared_gate_bias != d.shared_up_bias);
    VKMOE_CHECK(notYet(mixed, "biases", "on one of gate and up alone"));
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
    }
    return "?";
}

const char* name(Precision precision) { return precision == Precision::exact ? "exact" : "rounded"; }

}  // namespace v1
}  // namespace vkmoe
