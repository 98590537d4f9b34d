// LmPass: records a language model's forward and backward kernels over its activations.
#pragma once

#include <functional>

#include "engine/models/lm_activations.h"
#include "engine/models/trunk.h"
#include "engine/train/trainable_layer.h"

namespace vkmoe {
inline namespace v1 {

// The tokens of one pass, as the host sends them: see shaders/params_language.h.
struct LmInputs {
    std::vector<uint32_t> ids, positions, remaining, targets;  // [T]
    std::vector<float> weights;                                // [T] of the losses
    std::vector<uint32_t> distinct, distinct_offsets, distinct_rows;

    uint32_t tokens() const { return uint32_t(ids.size()); }
    // Appends a sequence whose first token stands at `position`. Each token but the last predicts the next one, with
    // weight 1/(length-1).
    void add(std::span<const uint32_t> sequence, uint32_t position = 0);
    // Sorts the tokens by their ids: what the embedding's gradient is summed by.
    void sortIds();
};

class LmPass {
public:
    // Kernels of the trunk, forward only, or backward as well.
    static Result<LmPass> create(Engine& engine, const Trunk& trunk, bool training);

    // Writes the inputs to the upload buffer.
    void fill(LmActivations& a, const LmInputs& inputs) const;

    // How a layer's mixture goes from its workspace's `raw` to its `out`, and its gradients from grad_out to grad_in:
    // after what the commands hold, which it may submit, to begin anew.
    using Mixture = std::function<Result<void>(Commands& commands, uint32_t layer)>;
    using MixtureBackward = std::function<Result<void>(const BackwardPass::Recording& recording, uint32_t layer)>;

    // Forward from the upload buffer to the logits, which stay on the device.
    Result<void> forward(Commands& commands, const LmActivations& a, const Mixture& mixture, uint32_t tokens) const;
    // The convolutions' last rows move to the front, for the pass that goes on from here.
    void shiftHistory(Commands& commands, const LmActivations& a, uint32_t tokens) const;
    // Losses of the targets and, with `gradients`, the gradients of the logits in their place.
    void loss(Commands& commands, const LmActivations& a, uint32_t tokens, bool gradients) const;
    // Copies the losses, every status and the mixtures' loads to the download buffer.
    void downloadResults(Commands& commands, const LmActivations& a, uint32_t tokens) const;

    struct Gradients {
        const Buffer* trunk_table;  // [1] the address of the trunk's gradients
        uint64_t trunk = 0;         // the same address
        const BackwardWorkspace* workspace;
        std::span<const LayerGradients> mixtures;
        uint64_t grad_u = 0, grad_n = 0;  // addresses of [T, D] scratch
        float balance_scale = 0, z_scale = 0;
        uint64_t counts = 0;                // address of [layers, experts]: assignments of the micro-batch
        std::span<const uint64_t> touched;  // of each layer the address of [experts]: TrainableLayer::touched
    };
    // Backward from the gradients of the logits. `again`: only the layers' inputs were kept, and this computes a
    // mixture once more; null: everything was kept.
    Result<void> backward(Commands& commands, const LmActivations& a, const Mixture& again,
                          const MixtureBackward& mixture, const Gradients& gradients, const LmInputs& inputs) const;

    // The first error in the status words that downloadResults brought, layer by layer.
    Result<void> check(const LmActivations& a, std::span<const ForwardPass* const> mixtures) const;
    Result<void> checkBackward(const LmActivations& a, std::span<const BackwardPass* const> passes) const;

private:
    explicit LmPass(const Trunk& trunk) : trunk_(&trunk) {}
    uint64_t xAfter(const LmActivations& a, uint32_t layer) const;
    void embed(Commands& commands, const LmActivations& a, uint32_t tokens) const;
    void beforeMixture(Commands& commands, const LmActivations& a, uint32_t layer, uint32_t tokens) const;
    void afterMixture(Commands& commands, const LmActivations& a, uint32_t layer, uint32_t tokens) const;
    void head(Commands& commands, const LmActivations& a, uint32_t tokens) const;
    void normBackward(Commands& commands, const LmActivations& a, uint64_t x, uint64_t roots, uint64_t gain,
                      uint64_t grad_gain, F32 grad_y, F32 residual, F32 grad_x, U32 status, uint32_t tokens) const;
    Result<void> layerBackward(Commands& commands, const LmActivations& a, const MixtureBackward& mixture,
                               const Gradients& g, uint32_t layer, uint32_t tokens) const;
    void headBackward(Commands& commands, const LmActivations& a, const Gradients& g, uint32_t tokens) const;

    const Trunk* trunk_;
    const Kernel *embed_ = nullptr, *norm_ = nullptr, *conv_ = nullptr, *add_ = nullptr, *apply_ = nullptr,
                 *head_ = nullptr;
    const Kernel *loss_ = nullptr, *loss_gradients_ = nullptr, *embed_backward_ = nullptr, *norm_backward_ = nullptr,
                 *norm_weight_ = nullptr, *conv_backward_ = nullptr, *conv_weight_ = nullptr, *head_backward_ = nullptr,
                 *head_weight_ = nullptr, *count_ = nullptr;
};

}  // namespace v1
}  // namespace vkmoe
