// LayerBatch: one batch of tokens through a layer's two passes, all at once or in chunks that fit the memory. The
// gradients have the same bits either way. Without a pager those of experts begin anew with each batch; with one, and
// all others, they are added to what is there (ParameterSet::zeroGrads).
#pragma once

#include <functional>
#include <optional>

#include "engine/train/paged_passes.h"

namespace vkmoe {
inline namespace v1 {

struct BatchWork {
    std::span<const float> x;         // [tokens, model_dim]
    std::span<const float> upstream;  // [tokens, model_dim]: targets, or gradients of the outputs
    bool squared_error = true;        // upstream are targets
    bool noise = false;               // on the logits, where the layer has it
    bool apart = false;               // the passes are submits of their own, and timed
    uint64_t first_token = 0;         // of the noise
    float balance_scale = 0, z_scale = 0;
    std::function<void(Commands&)> begin, finish;  // recorded before and after everything
};

struct BatchResult {
    double loss = 0;                    // half the squared errors, summed
    std::vector<double> probabilities;  // [experts] softmax over all experts, summed over tokens
    std::vector<uint64_t> tokens;       // [experts]
    std::vector<float> grad_in;         // [tokens, model_dim], unless the upstream are targets
    double forward_seconds = 0, backward_seconds = 0;
};

class LayerBatch {
public:
    // `max_chunk` tokens at once at most; 0: as memory allows.
    static Result<LayerBatch> create(Engine& engine, TrainableLayer& layer, const ParameterSet& set,
                                     uint32_t max_chunk);

    Result<BatchResult> run(const BatchWork& work);

    // Memory that a batch of `capacity` tokens takes, on the device and on the way there.
    uint64_t bytesFor(uint32_t capacity) const;

private:
    // Byte offsets into the upload buffer (inputs come first) and the download buffer (grad_in comes first).
    struct Places {
        uint64_t upstream = 0;
        uint64_t losses = 0, logits = 0, offsets = 0, forward = 0, backward = 0, loss_status = 0;
    };
    // What chunks hand on.
    struct Carry {
        std::vector<Buffer> totals, partials;  // as the set's gradients
        Buffer total_table, partial_table;
        Buffer carried;           // [experts + 1]
        Buffer x, shared_logits;  // [tokens, model_dim], [tokens], with a shared gate
    };
    struct Chunk {
        uint32_t first, tokens;
        bool is_first, is_last, whole;  // whole: the only one
    };

    LayerBatch(Engine& engine, TrainableLayer& layer, const ParameterSet& set, uint32_t max_chunk)
        : engine_(&engine), layer_(&layer), set_(&set), max_chunk_(max_chunk) {}
    Result<void> ensure(uint64_t tokens);
    Result<void> allocate(uint32_t capacity);
    Result<void> ensureCarry(uint64_t tokens);
    Result<void> countAll(const BatchWork& work, uint64_t tokens);
    void upload(const BatchWork& work, const Chunk& chunk);
    ForwardPass::Batch forwardBatch(const BatchWork& work, const Chunk& chunk) const;
    void recordInput(Commands& commands, const Chunk& chunk) const;
    void recordForward(Commands& commands, const BatchWork& work, const Chunk& chunk) const;
    void recordUpstream(Commands& commands, const BatchWork& work, const Chunk& chunk) const;
    void recordCounts(Commands& commands, uint64_t counts) const;
    void recordBegin(Commands& commands, const BatchWork& work, const Chunk& chunk) const;
    void recordAllCounts(Commands& commands, const Chunk& chunk) const;
    void recordBackward(Commands& commands, const BatchWork& work, const Chunk& chunk, uint64_t tokens) const;
    void carryOn(Commands& commands, const Chunk& chunk, uint64_t tokens) const;
    void recordDownloads(Commands& commands, const BatchWork& work, const Chunk& chunk) const;
    BackwardPass::Batch backwardBatch(const BatchWork& work, const Chunk& chunk, uint64_t tokens) const;
    const BackwardPass& backwardPass(const Chunk& chunk) const { return chunk.whole ? *whole_ : *chunked_; }
    Result<const BackwardPass*> makeBackward(bool carry) const;
    Result<void> runChunk(const BatchWork& work, const Chunk& chunk, uint64_t tokens, BatchResult& result);
    Result<void> runPaged(const BatchWork& work, const Chunk& chunk, uint64_t tokens, BatchResult& result);
    Result<void> backwardPaged(const BatchWork& work, const Chunk& chunk, uint64_t tokens);
    Result<double> submit(const Commands& commands) const;
    Result<SlotTable> slots() const;
    Result<void> check(const Chunk& chunk) const;
    void collect(const BatchWork& work, const Chunk& chunk, BatchResult& result) const;

    Engine* engine_;
    TrainableLayer* layer_;
    const ParameterSet* set_;
    uint32_t max_chunk_;
    LayerGradients gradients_;
    const Kernel *squared_error_ = nullptr, *count_ = nullptr;
    const BackwardPass *whole_ = nullptr, *chunked_ = nullptr;
    std::optional<Workspace> workspace_;
    std::optional<BackwardWorkspace> backward_;
    Buffer upload_, download_, losses_, counts_;  // losses: [T], [2] status, [T, model_dim] targets
    Places at_;
    std::optional<Carry> carry_;
    uint64_t carry_tokens_ = 0;
    std::vector<uint32_t> chunk_experts_, batch_experts_;  // with slots in this chunk; in the batch so far; ascending
    uint64_t asked_ = 0;                                   // tokens that memory was last asked for; it may hold fewer
};

}  // namespace v1
}  // namespace vkmoe
