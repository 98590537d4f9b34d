// ForwardPass: records the kernels of one forward pass over a workspace, in the order of the layer, with the barriers
// between.
#pragma once

#include <span>
#include <vector>

#include "engine/moe/expert_forms.h"
#include "engine/moe/slot_table.h"
#include "engine/moe/workspace.h"

namespace vkmoe {
inline namespace v1 {

// What a status row speaks of: which values, how long their rows are, and whether these are slots' or tokens'.
struct Stage {
    const char* what = nullptr;
    uint32_t row_width = 1;
    bool of_slots = false;
};

class ForwardPass {
public:
    // Builds (and, at first use, probes) every kernel this layer needs in this precision.
    // With `keep_totals` the pass stores what a backward pass needs, into a workspace made for it.
    static Result<ForwardPass> create(Engine& engine, const Weights& weights, Precision precision, bool introspection,
                                      bool keep_totals = false);

    // What a batch of a call is.
    struct Batch {
        uint64_t first = 0;  // token of the call
        uint32_t tokens = 0;
        const HostArea* forced = nullptr;  // the routes there replace the router's
        bool training = false;             // noise on the logits
        uint32_t layer = 0;                // of a stack: each draws noise of its own
        uint32_t capacity = 0;             // tokens an expert may accept in the whole call (capacity dispatch)
        const Buffer* taken = nullptr;     // [experts] how many it has accepted in the call so far
    };

    // Work from Workspace::raw to Workspace::out, both on the device. Nothing is copied to the host, the status
    // neither.
    void recordOnDevice(Commands& commands, const Workspace& workspace, const Batch& batch) const {
        recordHead(commands, workspace, batch);
        recordExperts(commands, workspace, batch.tokens);
        recordTail(commands, workspace, batch.tokens);
    }
    // The same in three parts: as far as the routes; the experts' rows (those whose page is null stay as they were);
    // the sum over a token's experts.
    void recordHead(Commands& commands, const Workspace& workspace, const Batch& batch) const;
    void recordExperts(Commands& commands, const Workspace& workspace, uint32_t tokens) const;
    void recordTail(Commands& commands, const Workspace& workspace, uint32_t tokens) const;

    // The routed experts' work, for who runs it on another device; the addresses are the workspace's.
    struct ExpertWork {
        Constants up_constants, down_constants;
        ExpertUp up;
        ExpertDown down;
    };
    ExpertWork expertWork(const Workspace& workspace, uint32_t tokens) const;
    // Where in the workspace the experts' operands lie.
    uint64_t operands(const Workspace& w) const { return routed_.operand_bits < 24 ? w.x_rounded : w.x; }
    const Description& description() const { return weights_->description; }
    bool introspects() const { return introspection_; }

    // Builds what recordSum needs.
    Result<void> prepareSum(Engine& engine);
    // After the tail: Workspace::out becomes the sum with Workspace::raw, the residual.
    void recordSum(Commands& commands, const Workspace& workspace, uint32_t tokens) const;

    // After the head: the chosen experts [tokens, width], to byte `at` of `host`.
    void recordRoutes(Commands& commands, const Workspace& workspace, uint32_t tokens, const Buffer& host,
                      uint64_t at) const {
        commands.copy(workspace.memory, workspace.selected, host, at, uint64_t{tokens} * workspace.width * 4);
    }

    // Routes, status and facts for the introspection, to the host.
    void recordFacts(Commands& commands, const Workspace& workspace, uint32_t tokens, const HostArea& host) const;

    // Only as far as the logits, to the host: what fixed_budget is decided by.
    void recordLogits(Commands& commands, const Workspace& workspace, const Batch& batch, const HostArea& host) const;

    // After another layer's head: who this layer's router would choose for that layer's tokens, [tokens, top_k], to
    // byte `at` of `host`. The other layer's workspace, for slots of `width` a token, must have room for it.
    bool guessFits(const Description& other, uint32_t width) const;
    void recordGuess(Commands& commands, const Workspace& others, uint32_t tokens, const Buffer& host,
                     uint64_t at) const;
    // Builds what recordGuess needs.
    Result<void> prepareGuess(Engine& engine);

    // The error in the status words [kStatusRows, 2] of a finished pass; `first_token` is the batch's place in the
    // call's input.
    Result<void> check(const uint32_t* words, uint32_t width, uint64_t first_token, const SlotTables& slots) const;
    // Adds to them what expert_up and expert_down counted elsewhere, two words each.
    static void mergeStatus(std::span<uint32_t> words, std::span<const uint32_t, 4> elsewhere);

private:
    // Status rows, in the order in which values come about: the first row that is not clean names the cause.
    enum StageIndex : size_t {
        kInput,
        kLogits,
        kGates,
        kSharedGate,
        kSharedHidden,
        kSharedOutput,
        kHidden,
        kOutput,
        kResult,
        kSum
    };

    // Kernels of one expert family.
    struct ExpertKernels {
        ExpertForms forms;
        uint32_t operand_bits = 24;
        Constants up, down;
    };

    struct Biases {
        bool gate, up, down;
    };

    ForwardPass(const Weights& weights, bool introspection, bool keep_totals)
        : weights_(&weights), introspection_(introspection), keep_totals_(keep_totals) {}
    Result<ExpertKernels> experts(Engine& engine, WeightFormat up, WeightFormat down, Biases biases, bool dense,
                                  Precision precision) const;
    Result<void> buildRouting(Engine& engine, Precision precision);
    Result<void> buildOptional(Engine& engine, const Constants& routing);
    void conditionInput(Commands& commands, const Workspace& w, uint32_t tokens) const;
    void dispatchLogits(Commands& commands, const Workspace& w, uint32_t tokens, U32 status) const;
    void logits(Commands& commands, const Workspace& w, const Batch& batch) const;
    void route(Commands& commands, const Workspace& w, const Batch& batch) const;
    void assignCapacity(Commands& commands, const Workspace& w, const Batch& batch) const;
    void sharedGate(Commands& commands, const Workspace& w, uint32_t tokens) const;
    RouteTopk topkParams(const Workspace& w, uint32_t tokens) const;
    void forceRoutes(Commands& commands, const Workspace& w, uint32_t tokens, const HostArea& host) const;
    void bin(Commands& commands, const Workspace& w, uint32_t tokens) const;
    template <class Params>
    Params expertParams(const Workspace& w, uint32_t hidden_dim) const;
    ExpertUp upParams(const Workspace& w, const PageLayout& layout, uint32_t hidden_dim, uint64_t x,
                      uint64_t hidden) const;
    ExpertDown downParams(const Workspace& w, const PageLayout& layout, uint32_t hidden_dim, uint64_t hidden,
                          uint64_t y) const;
    void sharedUp(Commands& commands, const Workspace& w, uint32_t tokens) const;
    void sharedDown(Commands& commands, const Workspace& w, uint32_t tokens) const;
    uint64_t sharedOperands(const Workspace& w) const;
    U32 status(const Workspace& w, size_t stage) const;
    std::vector<Stage> stages(uint32_t width) const;

    const Weights* weights_;
    bool introspection_, keep_totals_;
    const Kernel *apply_ = nullptr, *apply_rounded_ = nullptr, *apply_shared_ = nullptr, *logits_ = nullptr,
                 *topk_ = nullptr, *guess_ = nullptr, *sum_ = nullptr, *noise_ = nullptr, *capacity_ = nullptr,
                 *shared_gate_ = nullptr;
    const Kernel *count_ = nullptr, *offsets_ = nullptr, *tokens_ = nullptr, *combine_ = nullptr, *stats_ = nullptr;
    ExpertKernels routed_, shared_;
    Constants routing_;
    uint32_t lanes_ = 8;
};

}  // namespace v1
}  // namespace vkmoe
