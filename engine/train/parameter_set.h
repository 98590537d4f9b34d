// ParameterSet: the device memory of a model in training beside its weights: gradients and the moments of AdamW, and
// the commands that work on all of them.
//
//     set->zeroGrads(commands); ... forward and backward ...        first submit
//     set->squares(commands, grad_scale);
//     GradNorm norm = set->gradNorm();                              after it
//     set->adamw(commands, options, rate, grad_scale, clipFactor(options, norm.norm));      second submit
//     VKMOE_CHECK(set->checkWeights());                             after it
//
// What records begins and ends with a barrier; the set must not be moved before the commands are submitted.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "vkmoe/engine.h"
#include "vkmoe/optimizer.h"

namespace vkmoe {
inline namespace v1 {

// A named tensor inside a slab. `position` is its place among all tensors of the model, which decides its shard.
struct ParameterTensor {
    std::string name;
    uint32_t position = 0;
    uint64_t offset = 0, words = 0;
};

// One piece of device memory with f32 parameters: the pages of a layer's experts, a router. Words outside the tensors
// are finite, best zero: they are taken along, and stay what they are unless weights decay.
struct ParameterSlab {
    std::string name;         // for errors
    uint64_t weights = 0;     // device address of [words]
    uint64_t words = 0;       // below 2^31
    uint32_t page_words = 0;  // words of one page, 0: the slab is not cut into pages
    // Device address of [pages] words, or 0. Of a page whose word is 0 no gradient has ever been other than zero: it is
    // left out, unless weights decay or are sharded. Same bits, sooner. With a checkpoint's moments the words of its
    // pages come back, too, or all are other than 0.
    uint64_t touched = 0;
    std::vector<ParameterTensor> tensors;
    bool assigned = false;  // a backward pass that is fresh (BackwardPass::Form) assigns the gradients
};

struct GradNorm {
    double norm = 0;    // of all gradients together, scaled
    std::string fault;  // names a tensor whose gradients are not finite, or too large to square; the norm means nothing
    bool finite() const { return fault.empty(); }
};

// Squares of gradients, added up slab after slab; of those that cannot be squared the first slab's sentence.
struct SquareSum {
    double sum = 0;
    std::string fault;
    GradNorm norm() const { return {fault.empty() ? std::sqrt(sum) : 0, fault}; }
};

// What a checkpoint keeps: moments of the owned words, slab after slab.
struct OptimizerState {
    uint64_t step = 0;
    std::vector<float> first, second;
};

// That there are as many moments as the model has words, and that moments can be so. Errors: bad_input.
Result<void> checkMoments(const OptimizerState& state, uint64_t words);

class ParameterSet {
public:
    // Gradients and moments start at zero. Errors: bad_input (no such shard), out_of_memory, which says how much is
    // needed for what.
    static Result<ParameterSet> create(Engine& engine, std::vector<ParameterSlab> slabs, Shard shard = {});

    const std::vector<ParameterSlab>& slabs() const { return slabs_; }
    const Buffer& grads(size_t slab) const { return grads_[slab]; }  // laid out as the slab
    uint64_t stateBytes() const { return 8 * owned_words_; }         // of the moments
    uint64_t step() const { return clock_.step(); }                  // those that adamw() recorded
    const AdamwClock& clock() const { return clock_; }

    // With `assigned` false those of slabs that the next backward pass assigns stay.
    void zeroGrads(Commands& commands, bool assigned = true) const;

    // Sums the squares of all gradients, each multiplied by `scale`, and brings them to the host. Pages are summed each
    // by itself: where they lie does not matter.
    void squares(Commands& commands, float scale) const;
    // Goes on with the sums of slabs [first, last), if none before was at fault.
    void addSquares(size_t first, size_t last, SquareSum& sum) const;
    GradNorm gradNorm() const {
        SquareSum sum;
        addSquares(0, slabs_.size(), sum);
        return sum.norm();
    }

    // One step of the owned tensors. `grad_scale` and `clip` as in adamwParams.
    void adamw(Commands& commands, const AdamwOptions& options, double rate, double grad_scale = 1, double clip = 1);
    Result<void> checkWeights() const;  // the error names the tensor with a weight or moment that went out of range

    Result<OptimizerState> save() const;
    // Errors: bad_input (another size, values that no moment has); nothing has changed then.
    Result<void> restore(const OptimizerState& state);

private:
    // Neighbouring owned words of a slab, and where their moments begin in the slab's.
    struct Run {
        size_t slab;
        uint64_t offset, words, moments;
    };
    // What grad_squares sums in one dispatch: a slab, or a page of it.
    struct Piece {
        size_t slab;
        uint64_t offset, words, sums_at;  // sums_at: byte offset of its partial sums in results_
    };
    explicit ParameterSet(Engine& engine, std::vector<ParameterSlab> slabs)
        : engine_(&engine), slabs_(std::move(slabs)) {}
    void findRuns(Shard shard);
    Result<void> checkBudget() const;
    Result<void> allocate();
    Result<void> build();
    void findPieces();
    bool skips(const ParameterSlab& slab, const Adamw& numbers) const;
    std::string place(size_t slab, uint64_t word) const;
    const uint32_t* result(uint64_t offset) const;

    Engine* engine_;
    std::vector<ParameterSlab> slabs_;
    std::vector<Run> runs_;
    std::vector<uint64_t> moment_words_;          // of each slab
    std::vector<Buffer> grads_, first_, second_;  // of each slab; no moments where a slab has none
    std::vector<Piece> pieces_;
    // Words: squares' status [pieces, 2], weights' status [runs, 2], partial sums of squares [pieces][partials].
    Buffer results_, download_;
    uint64_t weights_at_ = 0, results_bytes_ = 0, owned_words_ = 0;
    bool sharded_ = false;
    AdamwClock clock_;
    const Kernel *adamw_ = nullptr, *adamw_skip_ = nullptr, *grad_squares_ = nullptr;
};

}  // namespace v1
}  // namespace vkmoe
