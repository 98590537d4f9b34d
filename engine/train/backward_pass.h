// BackwardPass: records the kernels that turn the gradient of a layer's output into those of its input and parameters,
// after a forward pass that kept its totals: ForwardPass in reverse.
//
// Gradients of parameters accumulate in pages with the layout of the f32 weights, or, of experts, take the place of
// what is there (Form::fresh). Reduction order: R32 over a slot's rank in its expert's list, over tokens for what
// every token touches (docs/numerics.md).
#pragma once

#include "engine/moe/workspace.h"
#include "engine/train/backward_workspace.h"

namespace vkmoe {
inline namespace v1 {

// Where a layer's parameter gradients are.
struct LayerGradients {
    const Buffer* table = nullptr;  // [experts + 2] page addresses: the routed experts', the shared one's, the router's
    uint64_t shared_router = 0;     // address of the shared gate's gradient
    PageLayout routed, shared;      // f32 layouts
    uint64_t router_bias = 0;       // bytes into the router's page
};

class BackwardPass {
public:
    // The most tokens of one pass: no invocation of expert_weight_grad loops more than 32,768 times.
    static constexpr uint32_t kMostTokens = 12000;

    struct Form {
        bool carry = false;  // batches are chunks
        bool fresh = false;  // gradients of experts are assigned, those of experts without tokens to zero
    };

    // Kernels for these weights (f32, or bf16 in rounded precision), built and proved at first use.
    static Result<BackwardPass> create(Engine& engine, const Weights& weights, Precision precision, Form form);

    struct Batch {
        uint32_t tokens = 0;
        uint32_t assignments = 0;  // of the micro-batch: what balance_loss divides counts by
        float balance_scale = 0;   // see RouterLossBackward; 0: none
        float z_scale = 0;
        bool input = true;    // grad_in is wanted; else nothing is computed for it alone
        uint64_t counts = 0;  // address: [experts] assignments of the micro-batch, if there is a balance loss
        // A chunk of a micro-batch: see ExpertWeightGrad. 0: the batch is whole.
        uint64_t totals = 0, partials = 0, carried = 0;
        bool last = true;
    };

    // From BackwardWorkspace::grad_out to the gradients and, if the batch wants it, grad_in; `forward` holds what the
    // forward pass left.
    void record(Commands& commands, const Workspace& forward, const BackwardWorkspace& workspace,
                const LayerGradients& gradients, const Batch& batch) const {
        record(Recording{commands, forward, workspace, gradients, batch});
    }

    // One recording.
    struct Recording {
        Commands& commands;
        const Workspace& f;
        const BackwardWorkspace& b;
        const LayerGradients& g;
        const Batch& batch;
    };
    void record(const Recording& r) const;

    // The same in parts, for experts that come in waves: those whose pages are null are left alone. Each expert must
    // have been there for recordDown before recordBetween, and for recordUp before recordLast.
    void recordFirst(const Recording& r) const;
    void recordDown(const Recording& r) const { downBackward(r, routed_, routed(r)); }
    void recordBetween(const Recording& r) const;
    void recordUp(const Recording& r) const { upBackward(r, routed_, routed(r)); }
    void recordLast(const Recording& r) const;

    // The shared gate's own gradient, which is made at once over a whole micro-batch: after the last of its chunks,
    // from what they left. `record` does it for whole batches.
    void recordSharedGate(Commands& commands, const BackwardWorkspace& workspace, const LayerGradients& gradients,
                          F32 grad_logits, F32 x, uint32_t tokens) const;

    // The error in the status words [kStatusRows, 2] of a finished pass, copied from BackwardWorkspace::status.
    Result<void> check(const uint32_t* words) const;

private:
    // Status rows, in the order in which values come about.
    enum StageIndex : size_t {
        kGradY,
        kGradGates,
        kGradLogits,
        kRouted,  // three rows a family: hidden, totals, input
        kShared = kRouted + 3,
        kWeights = kShared + 3,
        kGradRouter,
        kGradInput
    };

    // Kernels of one expert family.
    struct Family {
        const Kernel *down = nullptr, *activation = nullptr, *up = nullptr;
        const Kernel *gate_grad = nullptr, *up_grad = nullptr, *down_grad = nullptr;
        bool dense = false;
    };
    // What one family reads and writes: byte offsets of `f` or of `b`, dimensions, layouts.
    struct Places {
        uint64_t x, hidden, gate_total, up_total;
        uint64_t grad_y, grad_hidden, grad_up, grad_x;
        uint32_t hidden_dim, rows;
        const PageLayout *weights, *gradients;
        size_t stage;
    };

    BackwardPass(const Weights& weights, Form form) : weights_(&weights), form_(form) {}
    Result<Family> family(Engine& engine, WeightFormat up, WeightFormat down, bool gate_bias, bool up_bias,
                          bool down_bias, bool dense, Precision precision) const;
    Result<void> buildRouting(Engine& engine, Precision precision);
    Places routed(const Recording& r) const;
    Places shared(const Recording& r) const;
    void startBackward(const Recording& r) const;
    void combineBackward(const Recording& r) const;
    void routeBackward(const Recording& r) const;
    void lossBackward(const Recording& r) const;
    void routerBackward(const Recording& r) const;
    void downBackward(const Recording& r, const Family& family, const Places& p) const;
    void activationBackward(const Recording& r, const Family& family, const Places& p) const;
    void upBackward(const Recording& r, const Family& family, const Places& p) const;
    void dispatchBackward(const Recording& r) const;
    void weightGrad(const Recording& r, const Kernel& kernel, ExpertWeightGrad p) const;
    U32 status(const Recording& r, size_t stage) const;
    bool hasShared() const { return weights_->description.shared != Shared::none; }
    bool hasSharedGate() const { return weights_->description.shared == Shared::sigmoid_gated; }

    const Weights* weights_;
    Form form_;
    uint32_t operand_bits_ = 24;  // of gradients that meet weights
    uint32_t lanes_ = 8;
    const Kernel *combine_ = nullptr, *gates_ = nullptr, *topk_ = nullptr, *losses_ = nullptr, *router_ = nullptr,
                 *router_grad_ = nullptr, *dispatch_ = nullptr, *shared_gate_ = nullptr;
    Family routed_, shared_;
};

}  // namespace v1
}  // namespace vkmoe
