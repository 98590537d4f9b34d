// PagedTraining: what training the routed experts of one or more layers takes, in pages: their weights, gradients and
// both moments, in rounded precision the bf16 copies that are multiplied by, and two accumulators between the chunks of
// a batch. All layers share the budgets, so that the whole memory serves the layer that is being worked on.
//
//     paged->zeroGradients();
//     PagedTraining::Layer layer(*paged, 0);
//     layer.forward(experts, record_experts);                       // experts: those with slots, ascending
//     layer.backward(experts, Chunk::whole, true, record_down); ... layer.backward(experts, Chunk::whole, true,
//     record_up); paged->squares(scale); ... layer.addSquares(sum); ... clip ... paged->adamw(numbers);
//
// An expert without a gradient misses the step: it is told of it when its pages are next wanted (forward, settle), and
// then takes all missed steps in their order with a gradient of zero, the bits of having taken them at once.
//
// After an error of the pages themselves (io, memory, device) they may be older than they should be, and every call
// fails with that error.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/formats/tensor_source.h"
#include "engine/moe/weights.h"
#include "engine/train/parameter_set.h"
#include "engine/train/rounded_weights.h"
#include "vkmoe/paging.h"
#include "vkmoe/training_paging.h"

namespace vkmoe {
inline namespace v1 {

class PagedTraining {
public:
    enum Kind : uint32_t { weights, gradients, first, second, operands, totals, partials, kinds };
    enum class Chunk { whole, some, last };  // of a batch: all of it; one of several; the last of several
    using Record = std::function<void(Commands&)>;

    // A layer whose experts are to be paged.
    struct Member {
        const Weights* weights = nullptr;  // loaded without experts (Weights::loadUnpaged, f32); stays where it is
        const RoundedWeights* rounded = nullptr;  // of them, in rounded precision; stays, too
        std::vector<ParameterTensor> tensors;     // of one page
        std::string prefix;                       // of its names, in errors
    };
    // Where a layer's experts are read from.
    using Source = std::function<Result<formats::LayerSource>(uint32_t layer)>;

    // All layers have the same shape. `chunks`: batches may come in chunks. Errors: what reading the experts has;
    // out_of_memory for budgets below an expert's pages; io.
    static Result<std::unique_ptr<PagedTraining>> create(Engine& engine, std::vector<Member> layers,
                                                         const Source& source, const TrainingPaging& options,
                                                         bool chunks);

    // One of the layers; its experts count from 0.
    class Layer {
    public:
        Layer(PagedTraining& all, uint32_t index) : all_(&all), index_(index) {}

        // [experts + 2] addresses for BackwardPass, of gradients, totals or partials. The last two entries are for
        // other gradients: copied from those of a table with all entries.
        const Buffer& table(Kind kind) const { return all_->tables_[kind][index_]; }
        Result<void> setOthers(Kind kind, const Buffer& table) const;

        // Works in waves; `record` is called for each and skips, as its kernels do, experts that are not there.
        Result<void> forward(std::span<const uint32_t> experts, const Record& record) const;
        // Without `operands` backward brings no weights, gradients alone.
        Result<void> backward(std::span<const uint32_t> experts, Chunk chunk, bool operands,
                              const Record& record) const;

        // After the layer's part of a pass: the pages that come next are read while nothing else is. Forward, those of
        // the layer behind, as if it chose what it chose last time, or after the last layer its own gradients;
        // backward, those of the layer before.
        void expectForward() const;
        void expectBackward() const;

        // What squares() found.
        void addSquares(SquareSum& sum) const;

        // All pages of a kind, [experts][words]; of weights and moments with all steps made.
        Result<std::vector<std::vector<float>>> read(Kind kind) const;

    private:
        std::vector<uint32_t> ofAll(std::span<const uint32_t> experts) const;

        PagedTraining* all_;
        uint32_t index_;
    };

    Result<void> zeroGradients();
    // Scales all gradients: `kernel` is scale_gradients.
    Result<void> scaleGradients(const Kernel& kernel, float before, float after);
    // Sums the squares of all gradients, each multiplied by `scale`.
    Result<void> squares(float scale);

    // A step of the experts with gradients, which are zero afterwards. Errors: bad_input for a weight or moment that
    // went out of range, as ParameterSet::checkWeights.
    Result<void> adamw(const Adamw& numbers);
    // All missed steps of all experts.
    Result<void> settle();

    // Moments of a checkpoint, [layers][experts * words], as they are read.
    using Moments = std::vector<std::span<const float>>;
    Result<void> restore(const Moments& first_moments, const Moments& second_moments, uint64_t step);
    // Reads the weights again.
    Result<void> refill(const Source& source);

    uint64_t layerWords() const { return layer_experts_ * words_; }  // of a kind
    const Pager& pager() const { return *pager_; }
    PagingReport report() const;                                  // without visits
    const std::vector<Visit>& visits() const { return visits_; }  // of each turn a visit of each table

private:
    // What is done with each expert of a wave.
    using Each = std::function<Result<void>(Commands&, uint32_t expert)>;
    struct Needs {
        std::vector<Kind> kinds;
        uint32_t changes = 0;  // bit i: of kinds[i]
    };

    // What a page of each of some kinds is to hold, one after the other.
    using Fill = std::function<Result<void>(uint32_t expert, std::span<float> into)>;

    PagedTraining(Engine& engine, std::vector<Member> layers, bool chunks)
        : engine_(&engine),
          layers_(std::move(layers)),
          used_(kindsFor(layers_.front().rounded, chunks)),
          layer_experts_(layers_.front().weights->description.experts),
          experts_(layer_experts_ * uint32_t(layers_.size())),
          words_(layers_.front().weights->routed.bytes() / 4) {}
    static std::vector<Kind> kindsFor(bool rounded, bool chunks);
    bool rounded() const { return layers_.front().rounded != nullptr; }
    Kind multiplied() const { return rounded() ? operands : weights; }  // what the passes read
    bool uses(Kind kind) const { return std::find(used_.begin(), used_.end(), kind) != used_.end(); }
    const Buffer& tableOf(Kind kind, uint32_t layer) const;
    void note(std::vector<PageId> pages);
    void readAhead(std::span<const uint32_t> experts, std::span<const Kind> each);
    Result<void> allocate();
    Result<void> openPager(const Source& source, const TrainingPaging& options);
    // Work after whose failure nobody knows what the pages hold: all later work fails, too.
    Result<void> attempt(const std::function<Result<void>()>& work);
    Result<void> turn(std::span<const uint32_t> experts, const Needs& needs, const Each& each, const Record& all);
    Result<void> tryTurn(std::span<const uint32_t> experts, const Needs& needs, const Each& each, const Record& all);
    Result<void> submit(Commands& commands, bool wait);
    PageId pageOf(Kind kind, uint32_t expert) const;
    uint64_t address(Kind kind, uint32_t expert) const { return pager_->address(pageOf(kind, expert)); }
    void zero(Commands& commands, uint32_t expert) const;
    bool isBehind(uint32_t expert);
    Result<void> catchUp(std::span<const uint32_t> experts);
    Result<void> makeSteps(Commands& commands, uint32_t expert);
    Result<void> stepAll(std::span<const uint32_t> experts);
    Result<void> round(std::span<const uint32_t> experts);
    Result<void> put(std::span<const uint32_t> experts, const std::vector<Kind>& into, const Fill& fill);
    std::vector<uint32_t> expertsOf(uint32_t layer) const;
    std::vector<uint32_t> everyExpert() const;
    Result<std::vector<std::vector<float>>> read(Kind kind, uint32_t layer);
    Result<void> clearResults();
    Result<void> fetch();
    std::vector<uint32_t> withGradients() const;
    const Member& memberOf(uint32_t expert) const { return layers_[expert / layer_experts_]; }
    std::string place(uint32_t expert, uint64_t word) const;
    const uint32_t* result(uint64_t offset) const;
    uint64_t sumsAt(uint32_t expert) const;

    Engine* engine_;
    std::vector<Member> layers_;
    std::vector<Kind> used_;             // kinds of pages there are
    uint32_t layer_experts_, experts_;   // of a layer; of all, which are numbered one layer after the other
    uint64_t words_;                     // of a page
    std::vector<Buffer> tables_[kinds];  // [layers]; of weights and operands none: they are Weights::table
    // Words: status of squares [experts, 2], of weights [experts, 2], partial sums [experts][partials].
    Buffer results_, download_;
    const Kernel *adamw_ = nullptr, *grad_squares_ = nullptr;
    std::unique_ptr<Pager> pager_;
    std::optional<Error> failure_;
    bool trace_ = false;
    std::vector<Visit> visits_;
    std::vector<std::vector<uint32_t>> chosen_;  // [layers] experts of the last forward pass
    std::vector<bool> has_gradient_, ever_;      // [experts] since the gradients were zeroed; since the beginning
    // Steps that some expert has yet to take, and how many of them each has taken.
    std::vector<Adamw> steps_;
    std::vector<size_t> taken_;
    size_t decays_ = 0;  // behind the last of them with weight decay
    uint64_t step_ = 0;  // of all
    uint64_t submits_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
