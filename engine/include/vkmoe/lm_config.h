// LmConfig: the shape of a small language model, and where each of its tensors lies among its parameters.
//
// Such a model is an embedding, tied to the output, and layers of a causal depthwise convolution and a mixture of
// experts with a shared one, each after an RMS norm. Its parameters have one canonical order, that of the tensors of
// lmTensors: files, gradients and the optimiser's state keep it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/result.h"

namespace vkmoe {
inline namespace v1 {

struct LmConfig {
    uint32_t vocab_size = 0;   // V; must be given
    uint32_t model_dim = 64;   // D
    uint32_t layers = 2;       // L; 0: the embedding alone
    uint32_t conv_kernel = 3;  // Kc: positions that a convolution looks at, its own and those before; 0: none
    uint32_t hidden_dim = 0;   // H; 0 is "not given": completed() makes it 2*D
    uint32_t experts = 4;      // E, without the shared one
    uint32_t top_k = 2;        // experts a token goes to, 1..E

    bool operator==(const LmConfig&) const = default;
};

// The same with what was not given.
LmConfig completed(LmConfig config);

inline constexpr uint64_t kLmMaxTensorElements = (uint64_t{1} << 31) - 1;
inline constexpr uint64_t kLmMaxTensors = uint64_t{1} << 18;
inline constexpr uint64_t kLmMaxParameters = uint64_t{1} << 34;

// Every field but layers and conv_kernel at least 1, top_k at most experts, no tensor, no number of tensors and no
// number of parameters above the limits. The sentence names the field, as files call it (vocabSize, dModel, numLayers,
// convKernel, hiddenDim, numExperts, topK), and the number.
Result<void> validate(const LmConfig& config);

// V*D + L*(D*Kc + 2*D + E*D + (E+1)*(2*H*D + H + D)) of a valid config.
uint64_t parameterCount(const LmConfig& config);

struct LmTensor {
    std::string name;
    std::vector<uint64_t> shape;  // row-major
    uint64_t first = 0;           // its first number's place among all parameters
    uint64_t count = 0;
};

// Of a valid config, in canonical order: token_embedding.weight [V,D]; of each layer l layers.l.conv.weight [D,Kc],
// layers.l.norm_conv.weight [D], layers.l.norm_moe.weight [D], layers.l.moe.router.weight [E,D],
// layers.l.moe.shared.w1 [H,D], .b1 [H], .w2 [D,H], .b2 [D], and the same four of layers.l.moe.experts.0 ... E-1.
std::vector<LmTensor> lmTensors(const LmConfig& config);

}  // namespace v1
}  // namespace vkmoe
