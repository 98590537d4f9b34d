// LayerTensors: the names that a layer file's tensors have, and what each must look like.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vkmoe/description.h"

namespace vkmoe::formats {

enum class TensorRole : uint32_t {
    router_weight,
    router_bias,
    selection_bias,
    gate_weight,
    up_weight,
    down_weight,
    gate_bias,
    up_bias,
    down_bias,
    shared_gate_weight,
    shared_up_weight,
    shared_down_weight,
    shared_gate_bias,
    shared_up_bias,
    shared_down_bias,
    shared_router_weight
};
inline constexpr size_t kTensorRoles = 16;

struct RoleShape {
    const char* group;  // "router", "experts", "shared"
    const char* rest;   // "weight", "up.bias"
    bool routed;        // has experts as its first dimension, and is one tensor for each in a LayerSource
    bool matrix;        // of an expert: may be MXFP4

    std::string name() const;                  // "experts.up.weight"
    std::string stem() const;                  // "experts.up"
    std::string expertName(uint32_t e) const;  // "experts.3.up.weight"
};

const RoleShape& shapeOf(TensorRole role);
constexpr std::array<TensorRole, kTensorRoles> allRoles() {
    std::array<TensorRole, kTensorRoles> roles = {};
    for (uint32_t i = 0; i < kTensorRoles; ++i) roles[i] = TensorRole(i);
    return roles;
}

// Whether a layer of this description has the tensor, and the shape it has, without the dimension of experts.
bool isPresent(TensorRole role, const Description& description);
std::vector<uint64_t> valueShape(TensorRole role, const Description& description);

}  // namespace vkmoe::formats
