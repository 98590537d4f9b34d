// LmTrainer's insides: what it has on the device, and the parts of a step.
#pragma once

#include <optional>

#include "engine/models/lm_mixtures.h"
#include "engine/train/trained_parameters.h"
#include "vkmoe/lm_trainer.h"

namespace vkmoe {
inline namespace v1 {

struct LmTrainer::State {
    Engine* engine;
    LmTrainerOptions options;
    Trunk trunk;
    std::optional<LmMixtures> mixtures;
    std::optional<TrainedParameters> all;  // slab 0 is the trunk
    std::vector<LayerGradients> gradients;
    std::optional<LmPass> pass;
    std::optional<LmActivations> activations;
    std::optional<BackwardWorkspace> backward;
    std::optional<LmCarry> carry;         // if the activations are larger than a chunk
    Buffer trunk_table, counts, scratch;  // scratch: two of [T, D]
    const Kernel *scale = nullptr, *halve = nullptr;
    LossScaler scaler{LossScalerOptions{}};
    bool fresh = true;              // a step's only micro-batch: see LmMixtures::backward
    bool accumulates = false;       // the next micro-batch adds its gradients to those that are there
    std::optional<Error> overflow;  // a scaled gradient of this step may not be stored

    Result<void> buildSet();
    Result<void> buildScaling();
    Result<void> ensureActivations(uint64_t tokens);
    const char* fewerBytes() const;
    std::string needs(uint32_t tokens) const;
    LmCarry::Model carriedModel() const;
    uint64_t bytesFor(uint32_t tokens) const;
    uint64_t mostAtOnce() const;
    uint32_t chunkOf(uint64_t tokens) const;
    const LmCarry* carryOf(uint32_t tokens) const { return tokens > activations->chunk ? &*carry : nullptr; }
    Result<void> checkTokens(uint64_t tokens) const;
    LmPass::Loads loads() const { return {counts.address(), mixtures->touched()}; }
    Result<void> allocate(uint32_t tokens);
    Result<LmInputs> inputsOf(std::span<const Sequence> sequences) const;
    LmPass::Gradients where(uint32_t sequences, uint32_t tokens) const;
    Result<void> recordPasses(Commands& commands, const LmInputs& inputs, uint32_t sequences);
    void countTokens(LmStep& step, uint32_t tokens) const;
    Result<void> checkGradients(Result<void> checked, bool scaled_before);
    // Of a step; `alone`: of one micro-batch. Makes what passes need.
    Result<void> begin(bool alone);
    // Records and runs one micro-batch; `last` adds what ends a step's first half. Returns the loss summed over
    // sequences.
    Result<double> microBatch(std::span<const Sequence> sequences, double grad_scale, bool last, LmStep& step);
    Result<void> finishStep(double grad_scale, LmStep& step);
    // With loss scaling gradients are scaled before they are squared.
    float squaresScale(double grad_scale) const { return options.loss_scaling ? 1.0f : float(grad_scale); }
    Result<std::vector<float>> flatten(bool of_gradients) const;
};

}  // namespace v1
}  // namespace vkmoe
