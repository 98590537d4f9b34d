#include "vkmoe/lm_config.h"

#include <fmt/format.h>

namespace vkmoe {
inline namespace v1 {
namespace {

Error inputError(const std::string& detail) { return {ErrorCode::bad_input, detail}; }

Result<void> positive(const char* field, uint32_t value) {
    if (value > 0) return {};
    return inputError(fmt::format("{} is 0; it must be at least 1", field));
}

Result<void> checkFields(const LmConfig& config) {
    VKMOE_CHECK(positive("vocabSize", config.vocab_size));
    VKMOE_CHECK(positive("dModel", config.model_dim));
    VKMOE_CHECK(positive("hiddenDim", config.hidden_dim));
    VKMOE_CHECK(positive("numExperts", config.experts));
    VKMOE_CHECK(positive("topK", config.top_k));
    if (config.top_k <= config.experts) return {};
    return inputError(
        fmt::format("topK is {}; it must be at most numExperts, which is {}", config.top_k, config.experts));
}

Result<void> checkTensor(const char* tensor, const char* field, uint32_t value, uint32_t model_dim) {
    if (uint64_t{value} * model_dim <= kLmMaxTensorElements) return {};
    return inputError(fmt::format("{} is {} and dModel {}, which makes {} numbers of {}; at most {} are supported",
                                  field, value, model_dim, uint64_t{value} * model_dim, tensor, kLmMaxTensorElements));
}

Result<void> checkTensorCount(const LmConfig& config) {
    if (config.layers <= kLmMaxTensors && config.experts <= kLmMaxTensors &&
        1 + config.layers * (4 * uint64_t{config.experts} + 8) <= kLmMaxTensors)
        return {};
    return inputError(fmt::format("numLayers is {} and numExperts {}, which makes more than {} tensors", config.layers,
                                  config.experts, kLmMaxTensors));
}

// Lists tensors one after the other.
class TensorList {
public:
    void add(std::string name, std::vector<uint64_t> shape) {
        uint64_t count = 1;
        for (const uint64_t size : shape) count *= size;
        tensors_.push_back({std::move(name), std::move(shape), first_, count});
        first_ += count;
    }
    void addExpert(const std::string& prefix, uint64_t model_dim, uint64_t hidden_dim) {
        add(prefix + ".w1", {hidden_dim, model_dim});
        add(prefix + ".b1", {hidden_dim});
        add(prefix + ".w2", {model_dim, hidden_dim});
        add(prefix + ".b2", {model_dim});
    }
    std::vector<LmTensor> take() { return std::move(tensors_); }

private:
    uint64_t first_ = 0;
    std::vector<LmTensor> tensors_;
};

}  // namespace

LmConfig completed(LmConfig config) {
    // What would wrap becomes a number that validate refuses.
    const uint64_t wanted = 2 * uint64_t{config.model_dim};
    if (config.hidden_dim == 0) config.hidden_dim = wanted > UINT32_MAX ? UINT32_MAX : uint32_t(wanted);
    return config;
}

Result<void> validate(const LmConfig& config) {
    VKMOE_CHECK(checkFields(config));
    VKMOE_CHECK(checkTensor("the embedding", "vocabSize", config.vocab_size, config.model_dim));
    VKMOE_CHECK(checkTensor("a convolution", "convKernel", config.conv_kernel, config.model_dim));
    VKMOE_CHECK(checkTensor("an expert's matrix", "hiddenDim", config.hidden_dim, config.model_dim));
    VKMOE_CHECK(checkTensor("a router", "numExperts", config.experts, config.model_dim));
    VKMOE_CHECK(checkTensorCount(config));
    const uint64_t parameters = parameterCount(config);
    if (parameters <= kLmMaxParameters) return {};
    return inputError(
        fmt::format("dModel {}, numLayers {}, hiddenDim {} and numExperts {} make {} parameters; at most "
                    "{} are supported",
                    config.model_dim, config.layers, config.hidden_dim, config.experts, parameters, kLmMaxParameters));
}

uint64_t parameterCount(const LmConfig& config) {
    const uint64_t D = config.model_dim, H = config.hidden_dim, E = config.experts;
    const uint64_t layer = D * config.conv_kernel + 2 * D + E * D + (E + 1) * (2 * H * D + H + D);
    return config.vocab_size * D + config.layers * layer;
}

std::vector<LmTensor> lmTensors(const LmConfig& config) {
    const uint64_t D = config.model_dim;
    TensorList list;
    list.add("token_embedding.weight", {config.vocab_size, D});
    for (uint32_t l = 0; l < config.layers; ++l) {
        const std::string layer = fmt::format("layers.{}.", l);
        list.add(layer + "conv.weight", {D, config.conv_kernel});
        list.add(layer + "norm_conv.weight", {D});
        list.add(layer + "norm_moe.weight", {D});
        list.add(layer + "moe.router.weight", {config.experts, D});
        list.addExpert(layer + "moe.shared", D, config.hidden_dim);
        for (uint32_t e = 0; e < config.experts; ++e)
            list.addExpert(fmt::format("{}moe.experts.{}", layer, e), D, config.hidden_dim);
    }
    return list.take();
}

}  // namespace v1
}  // namespace vkmoe
