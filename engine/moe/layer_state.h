// LayerState: a layer on a device, as Layer and Stack share it: weights, passes and running statistics.
#pragma once

#include <optional>

#include "engine/moe/forward_pass.h"
#include "vkmoe/layer.h"

namespace vkmoe {
inline namespace v1 {

class HostExperts;

struct LayerState {
    Engine* engine;
    Weights weights;
    std::vector<std::string> warnings;
    PoolStatistics pool{weights.description.experts};
    Buffer taken = {};                             // [experts] of capacity dispatch: it outlives the batches of a call
    uint32_t number = 0;                           // in its stack
    HostExperts* host = nullptr;                   // of its stack, where experts may be computed on the CPU
    std::optional<ForwardPass> passes[2][2] = {};  // kernels built and proved, once for each of the four kinds

    const Description& description() const { return weights.description; }

    Result<ForwardPass*> passFor(Precision precision, bool introspection) {
        std::optional<ForwardPass>& pass = passes[size_t(precision)][introspection];
        if (!pass) {
            VKMOE_TRY(made, ForwardPass::create(*engine, weights, precision, introspection));
            pass = made;
        }
        return &*pass;
    }
};

}  // namespace v1
}  // namespace vkmoe
