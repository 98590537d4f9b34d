#include "engine/formats/layer_tensors.h"

#include <fmt/format.h>

namespace vkmoe::formats {
namespace {

constexpr RoleShape kShapes[kTensorRoles] = {
    {"router", "weight", false, false},         {"router", "bias", false, false},
    {"router", "selection_bias", false, false}, {"experts", "gate.weight", true, true},
    {"experts", "up.weight", true, true},       {"experts", "down.weight", true, true},
    {"experts", "gate.bias", true, false},      {"experts", "up.bias", true, false},
    {"experts", "down.bias", true, false},      {"shared", "gate.weight", false, true},
    {"shared", "up.weight", false, true},       {"shared", "down.weight", false, true},
    {"shared", "gate.bias", false, false},      {"shared", "up.bias", false, false},
    {"shared", "down.bias", false, false},      {"shared", "router.weight", false, false},
};

}  // namespace

std::string RoleShape::name() const { return fmt::format("{}.{}", group, rest); }

std::string RoleShape::stem() const {
    const std::string whole = name();
    return whole.substr(0, whole.rfind('.'));
}

std::string RoleShape::expertName(uint32_t e) const { return fmt::format("{}.{}.{}", group, e, rest); }

const RoleShape& shapeOf(TensorRole role) { return kShapes[size_t(role)]; }

bool isPresent(TensorRole role, const Description& d) {
    const bool shared = d.shared != Shared::none;
    switch (role) {
        case TensorRole::router_weight:
        case TensorRole::up_weight:
        case TensorRole::down_weight:
            return true;
        case TensorRole::router_bias:
            return d.router_bias;
        case TensorRole::selection_bias:
            return d.selection_bias;
        case TensorRole::gate_weight:
            return d.gated();
        case TensorRole::gate_bias:
            return d.gated() && d.gate_bias;
        case TensorRole::up_bias:
            return d.up_bias;
        case TensorRole::down_bias:
            return d.down_bias;
        case TensorRole::shared_gate_weight:
            return shared && d.gated();
        case TensorRole::shared_up_weight:
        case TensorRole::shared_down_weight:
            return shared;
        case TensorRole::shared_gate_bias:
            return shared && d.gated() && d.shared_gate_bias;
        case TensorRole::shared_up_bias:
            return shared && d.shared_up_bias;
        case TensorRole::shared_down_bias:
            return shared && d.shared_down_bias;
        case TensorRole::shared_router_weight:
            return d.shared == Shared::sigmoid_gated;
    }
    return false;
}

std::vector<uint64_t> valueShape(TensorRole role, const Description& d) {
    const uint64_t D = d.model_dim, F = d.hidden_dim, E = d.experts, S = d.shared_dim;
    switch (role) {
        case TensorRole::router_weight:
            return {E, D};
        case TensorRole::router_bias:
        case TensorRole::selection_bias:
            return {E};
        case TensorRole::gate_weight:
        case TensorRole::up_weight:
            return {F, D};
        case TensorRole::down_weight:
            return {D, F};
        case TensorRole::gate_bias:
        case TensorRole::up_bias:
            return {F};
        case TensorRole::shared_gate_weight:
        case TensorRole::shared_up_weight:
            return {S, D};
        case TensorRole::shared_down_weight:
            return {D, S};
        case TensorRole::shared_gate_bias:
        case TensorRole::shared_up_bias:
            return {S};
        case TensorRole::down_bias:
        case TensorRole::shared_down_bias:
        case TensorRole::shared_router_weight:
            return {D};
    }
    return {};
}

}  // namespace vkmoe::formats
