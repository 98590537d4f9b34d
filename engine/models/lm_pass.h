// LmPass: records a language model's forward and backward kernels over its activations.
#pragma once

#include <array>
#include <functional>

#include "engine/models/lm_activations.h"
#include "engine/models/lm_carry.h"
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

    // How a layer's mixture goes, over the tokens of a chunk, from its workspace's `raw` to its `out`, and its
    // gradients from grad_out to grad_in: after what the commands hold, which it may submit, to begin anew.
    using Mixture = std::function<Result<void>(Commands& commands, uint32_t layer, const LmChunk& chunk)>;
    using MixtureBackward =
        std::function<Result<void>(const BackwardPass::Recording& recording, uint32_t layer, const LmChunk& chunk)>;

    // Where assignments are counted.
    struct Loads {
        uint64_t counts = 0;                // address of [layers, experts]: of the micro-batch, zero before
        std::span<const uint64_t> touched;  // of each layer the address of [experts]: TrainableLayer::touched
    };

    // Forward from the upload buffer to the head's input. `loads`: what a backward pass needs; null: nothing.
    Result<void> forward(Commands& commands, const LmActivations& a, const Mixture& mixture, uint32_t tokens,
                         const Loads* loads = nullptr) const;
    // From there to the logits of a chunk, which stay on the device.
    void logits(Commands& commands, const LmActivations& a, const LmChunk& chunk) const;
    // The convolutions' last rows move to the front, for the pass that goes on from here.
    void shiftHistory(Commands& commands, const LmActivations& a, uint32_t tokens) const;
    // Copies the losses and every status to the download buffer; the mixtures' are there already.
    void downloadResults(Commands& commands, const LmActivations& a, uint32_t tokens) const;

    struct Gradients {
        const Buffer* trunk_table;  // [1] the address of the trunk's gradients
        uint64_t trunk = 0;         // the same address
        const BackwardWorkspace* workspace;
        const LmCarry* carry = nullptr;  // of a micro-batch in chunks; null: it is whole
        std::span<const LayerGradients> mixtures;
        uint64_t grad_u = 0, grad_n = 0;  // addresses of [T, D] scratch
        float balance_scale = 0, z_scale = 0;
        uint64_t counts = 0;  // Loads::counts
    };
    // Chunk by chunk from the head's input to the losses of the targets and, with `gradients`, back again.
    void losses(Commands& commands, const LmActivations& a, uint32_t tokens, const Gradients* gradients) const;
    // Backward from there. `again`: only the layers' inputs were kept, and this computes a mixture once more; null:
    // everything was kept.
    Result<void> backward(Commands& commands, const LmActivations& a, const Mixture& again,
                          const MixtureBackward& mixture, const Gradients& gradients, const LmInputs& inputs) const;

    // The first error in the status words of a pass over `tokens`, layer by layer; tokens count from `first_token`.
    // `elsewhere`: of each layer, what experts that ran elsewhere have counted; empty: none did.
    Result<void> check(const LmActivations& a, uint32_t tokens, std::span<const ForwardPass* const> mixtures,
                       uint32_t first_token = 0, std::span<const std::array<uint32_t, 4>> elsewhere = {}) const;
    Result<void> checkBackward(const LmActivations& a, uint32_t tokens,
                               std::span<const BackwardPass* const> passes) const;

private:
    // Status rows of a layer, in the order in which values come about; of the head. Those of all tokens at once are the
    // first chunk's.
    enum LayerStatus : size_t { kConvNorm, kConv, kMoeNorm, kSum, kBackward };
    enum HeadStatus : size_t { kHead, kLogits, kLoss, kHeadBackward };
    static U32 statusAt(const LmActivations& a, uint64_t rows, size_t row, const LmChunk& chunk = {}) {
        return a.memory.at<U32>(a.statusAt(rows, chunk) + row * 8);
    }

    explicit LmPass(const Trunk& trunk) : trunk_(&trunk) {}
    uint64_t xAfter(const LmActivations& a, uint32_t layer) const;
    void embed(Commands& commands, const LmActivations& a, uint32_t tokens) const;
    void beforeMixtures(Commands& commands, const LmActivations& a, uint32_t layer, uint32_t tokens) const;
    void beforeMixture(Commands& commands, const LmActivations& a, uint32_t layer, const LmChunk& chunk) const;
    void afterMixture(Commands& commands, const LmActivations& a, uint32_t layer, const LmChunk& chunk,
                      const Loads* loads) const;
    void afterLayers(Commands& commands, const LmActivations& a, uint32_t tokens) const;
    void loss(Commands& commands, const LmActivations& a, const LmChunk& chunk, bool gradients) const;
    void normBackward(Commands& commands, const LmActivations& a, uint64_t x, uint64_t roots, uint64_t gain,
                      uint64_t grad_gain, F32 grad_y, F32 residual, F32 grad_x, U32 status, uint32_t tokens) const;
    Result<void> mixturesBackward(Commands& commands, const LmActivations& a, const Mixture& again,
                                  const MixtureBackward& mixture, const Gradients& g, uint32_t layer,
                                  uint32_t tokens) const;
    Result<void> mixtureBackward(Commands& commands, const LmActivations& a, const MixtureBackward& mixture,
                                 const Gradients& g, uint32_t layer, const LmChunk& chunk, uint32_t tokens) const;
    void trunkBackward(Commands& commands, const LmActivations& a, const Gradients& g, uint32_t layer,
                       uint32_t tokens) const;
    void headBackward(Commands& commands, const LmActivations& a, const Gradients& g, const LmChunk& chunk) const;
    void embedBackward(Commands& commands, const LmActivations& a, const Gradients& g, const LmInputs& inputs) const;
    void count(Commands& commands, U32 offsets, uint64_t counts) const;

    const Trunk* trunk_;
    const Kernel *embed_ = nullptr, *norm_ = nullptr, *conv_ = nullptr, *add_ = nullptr, *apply_ = nullptr,
                 *head_ = nullptr;
    const Kernel *loss_ = nullptr, *loss_gradients_ = nullptr, *embed_backward_ = nullptr, *norm_backward_ = nullptr,
                 *norm_weight_ = nullptr, *conv_backward_ = nullptr, *conv_weight_ = nullptr, *head_backward_ = nullptr,
                 *head_weight_ = nullptr, *head_carry_ = nullptr, *count_ = nullptr;
};

}  // namespace v1
}  // namespace vkmoe
