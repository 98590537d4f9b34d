// Stack: the layers of a model file, run one after the other: y = x + moe(x) at each layer of a stack, y = moe(x) where
// the file is a single layer.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "vkmoe/layer.h"

namespace vkmoe {

namespace formats {
struct ModelSource;
}

inline namespace v1 {

struct StackResult {
    std::vector<float> output;          // [tokens, model_dim]
    std::vector<ForwardResult> layers;  // what each layer did; its output is not kept
    uint64_t tokens = 0;
    double seconds = 0;
    uint64_t submits = 0, host_waits = 0;  // of this call
};

class Stack {
public:
    // Opens a MoE0 file, a safetensors layer file, the index of one in several files, or a folder with one.
    // Errors: as Layer::open.
    static Result<Stack> open(Engine& engine, const std::string& path, bool compat = false);
    static Result<Stack> create(Engine& engine, const formats::ModelSource& source);

    bool residual() const { return residual_; }  // true for a stack: x is added at each layer
    uint32_t modelDim() const { return layers_.front().description().model_dim; }
    std::vector<Layer>& layers() { return layers_; }
    const std::vector<Layer>& layers() const { return layers_; }
    const std::vector<std::string>& warnings() const { return warnings_; }

    // Statistics of layers that ran before one failed have counted the call. `forced_routes`: none, or one for each
    // layer (a null pointer: the layer's router decides); the one in `options` is not used. Errors: as Layer::forward;
    // in a stack a sentence that is not about x begins with the layer, "layers.3: ".
    Result<StackResult> forward(std::span<const float> x, const ForwardOptions& options = {},
                                std::span<const Routes* const> forced_routes = {});

private:
    std::vector<Layer> layers_;
    bool residual_ = false;
    std::vector<std::string> warnings_;
};

}  // namespace v1
}  // namespace vkmoe
