// LayerTrainer: a mixture-of-experts layer that learns on an engine's device: gradients of everything in it, AdamW, and
// the reference engine's epoch loop. Weights after any number of steps have the same bits on every device.
//
//     auto source = vkmoe::formats::openModel("model.moe0");
//     auto trainer = vkmoe::LayerTrainer::create(engine, source->layers[0], {.adamw = {.learning_rate = 0.01f}});
//     auto epoch = trainer->epoch(inputs, targets, {.batch_size = 32});
//     auto layer = trainer->weights();  // a LayerSource: write it as any file
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/formats/tensor_source.h"
#include "vkmoe/engine.h"
#include "vkmoe/optimizer.h"
#include "vkmoe/paging.h"
#include "vkmoe/training_memory.h"
#include "vkmoe/training_paging.h"

namespace vkmoe {
inline namespace v1 {

// What the gradient of the balance loss is divided by. The reference divides it twice by the batch.
enum class AuxScale { reference, mean };

struct OptimizerState;  // engine/train/parameter_set.h

struct LayerTrainerOptions {
    Precision precision = Precision::exact;  // rounded: bf16 weight operands, f32 master weights and gradients
    AdamwOptions adamw;
    float aux_weight = 0.01f;  // of the balance loss
    AuxScale aux_scale = AuxScale::reference;
    float z_weight = 0;  // of the router z-loss
    // Tokens of a batch that are on the device at once; 0: as memory allows. Never changes bits. With a gated shared
    // expert, batches of more than 30,000 tokens cannot be cut (unsupported).
    uint32_t max_chunk = 0;
    // The routed experts in pages: same bits, in less memory. A step moves the pages of the experts that it uses. An
    // error of reading or writing pages ends the trainer's use.
    std::optional<TrainingPaging> paging = {};
};

struct EpochOptions {
    uint32_t batch_size = 0;                                         // 0: all samples; the last batch may be shorter
    std::function<bool(uint64_t done, uint64_t all)> progress = {};  // samples; false cancels between steps
};

struct EpochResult {
    double loss = 0;      // half the squared error summed over model_dim, averaged over samples
    double aux_loss = 0;  // the balance loss of the last batch, not weighted: 1 is even, experts is collapse
    uint64_t steps = 0, submits = 0, host_waits = 0;
    double seconds = 0;
    std::vector<uint64_t> expert_tokens;  // over the epoch
};

struct LayerGradientResult {
    std::vector<float> input;                          // [tokens, model_dim]
    formats::LayerSource gradients;                    // f32, every trained tensor under its name, summed over tokens
    double forward_seconds = 0, backward_seconds = 0;  // on the device, each a submit of its own
};

class LayerTrainer {
public:
    // Errors: unsupported for a layer that cannot be trained (mxfp4 weights; dispatch other than dropless), what
    // Layer::open has, and out_of_memory with what would fit.
    static Result<LayerTrainer> create(Engine& engine, const formats::LayerSource& source,
                                       const LayerTrainerOptions& options = {});
    LayerTrainer(LayerTrainer&&) noexcept;
    LayerTrainer& operator=(LayerTrainer&&) noexcept;
    ~LayerTrainer();

    const Description& description() const;
    // What a batch of `tokens` takes. For T tokens, S = T * top_k slots, D, F, E of the description, shared width H (0:
    // none), in f32 words: forward 4*T*D + 2*T*E + 4*S + S*(2*F or 3*F + D) + T*(2*H or 3*H) + 2*T*D, backward
    // 4*T*D + T*E + S*(2*F + 2*D) + 2*T*H + 2*T*D, and small change; exactly: Workspace and BackwardWorkspace.
    TrainingMemory memory(uint32_t tokens) const;
    std::optional<PagingReport> paging() const;  // since it was made; nothing without pages
    const Pager* pager() const;                  // null without pages
    std::span<const Visit> visits() const;       // with TrainingPaging::trace, since it was made
    uint64_t peakBytes() const;                  // that the engine's device has given out at once so far

    // Gradients for one batch of tokens [tokens, model_dim] and the gradient of its outputs, without auxiliary losses.
    // Weights stay as they are.
    Result<LayerGradientResult> backward(std::span<const float> x, std::span<const float> grad_out);

    // Goes once over the samples in their order: inputs and targets [samples, model_dim].
    Result<EpochResult> epoch(std::span<const float> inputs, std::span<const float> targets,
                              const EpochOptions& options = {});

    // The weights as they are now, f32.
    Result<formats::LayerSource> weights();

    // Moments and samples seen, and how a trainer made from weights() goes on with them, in pages or not. Errors:
    // bad_input for another layer's.
    Result<OptimizerState> save();
    Result<void> restore(const OptimizerState& state, uint64_t samples_seen);
    uint64_t samplesSeen() const;

private:
    struct State;
    explicit LayerTrainer(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace v1
}  // namespace vkmoe
