// ForwardPass: records the kernels of one forward pass over a workspace, in the order of the layer, with the barriers
// between.
#pragma once

#include <array>

#include "engine/moe/workspace.h"

namespace vkmoe {
inline namespace v1 {

// What a status row speaks of: which values, and how long their rows are.
struct Stage {
    const char* what = nullptr;
    const char* row = "";
    uint32_t row_width = 1;
};

class ForwardPass {
public:
    // Builds (and, at first use, probes) every kernel this layer needs in this precision.
    static Result<ForwardPass> create(Engine& engine, const Weights& weights, Precision precision, bool introspection);

    // Work for `tokens` tokens of the upload buffer, results into the download buffer: one command list. With
    // `forced_routes` the routes in the upload buffer replace the router's.
    Commands record(const Workspace& workspace, uint32_t tokens, bool forced_routes) const;

    // The error in the status words of a finished pass; `first_token` is the batch's place in the call's input.
    Result<void> check(const Workspace& workspace, uint64_t first_token) const;

private:
    // Kernels of one expert family: GEMM and few-token form.
    struct ExpertKernels {
        const Kernel *up = nullptr, *up_gemv = nullptr, *down = nullptr, *down_gemv = nullptr;
        uint32_t operand_bits = 24;
    };

    struct Biases {
        bool gate, up, down;
    };

    ForwardPass(const Weights& weights, bool introspection) : weights_(&weights), introspection_(introspection) {}
    static Result<ExpertKernels> experts(Engine& engine, const Description& description, WeightFormat up,
                                         WeightFormat down, Biases biases, bool dense, Precision precision);
    Result<void> buildRouting(Engine& engine, Precision precision);
    void conditionInput(Commands& commands, const Workspace& w, uint32_t tokens) const;
    void routeAndShare(Commands& commands, const Workspace& w, uint32_t tokens) const;
    void forceRoutes(Commands& commands, const Workspace& w, uint32_t tokens) const;
    void bin(Commands& commands, const Workspace& w, uint32_t tokens) const;
    void runExperts(Commands& commands, const Workspace& w, uint32_t tokens) const;
    void combineAndReturn(Commands& commands, const Workspace& w, uint32_t tokens) const;
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
    std::array<Stage, 8> stages() const;
    bool fewRows(uint32_t tokens, uint32_t copies, uint32_t experts) const;

    const Weights* weights_;
    bool introspection_;
    const Kernel *apply_ = nullptr, *apply_rounded_ = nullptr, *apply_shared_ = nullptr, *logits_ = nullptr,
                 *topk_ = nullptr;
    const Kernel *count_ = nullptr, *offsets_ = nullptr, *tokens_ = nullptr, *combine_ = nullptr, *stats_ = nullptr;
    ExpertKernels routed_, shared_;
    uint32_t lanes_ = 8;
};

}  // namespace v1
}  // namespace vkmoe
