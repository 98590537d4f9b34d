#include "engine/formats/checkpoint_facts.h"

#include "engine/formats/package.h"

namespace vkmoe::formats {

CheckpointFacts factsOf(const LayerSource& layer) {
    const Description& d = layer.description;
    CheckpointFacts facts{kLayerPackage, formatName(kLayerPackage), {}, 0, false};
    facts.config = {
        {"modelDim", d.model_dim}, {"hiddenDim", d.hidden_dim}, {"numExperts", d.experts}, {"topK", d.top_k}};
    facts.fp16 = layer.tensors.front().format == WeightFormat::f16;
    for (const TensorRange& tensor : layer.tensors) facts.parameters += tensor.bytes / (facts.fp16 ? 2 : 4);
    return facts;
}

CheckpointFacts factsOf(const LmSource& model) {
    const LmConfig& c = model.config;
    CheckpointFacts facts{kLmPackage, formatName(kLmPackage), {}, parameterCount(c), false};
    facts.config = {
        {"vocabSize", c.vocab_size}, {"dModel", c.model_dim},   {"numLayers", c.layers}, {"convKernel", c.conv_kernel},
        {"hiddenDim", c.hidden_dim}, {"numExperts", c.experts}, {"topK", c.top_k}};
    facts.fp16 = model.format == WeightFormat::f16;
    return facts;
}

std::vector<const char*> configNames(std::string_view model_type) {
    if (model_type == kLayerPackage) return {"modelDim", "hiddenDim", "numExperts", "topK"};
    if (model_type == kLmPackage)
        return {"vocabSize", "dModel", "numLayers", "convKernel", "hiddenDim", "numExperts", "topK"};
    return {};
}

const char* formatName(std::string_view model_type) { return model_type == kLayerPackage ? "MoE0" : "EVL0"; }

}  // namespace vkmoe::formats
