// PagedTraining: what training a layer's routed experts takes, in pages: their weights, gradients and both moments, and
// two accumulators between the chunks of a batch.
//
//     paged->zeroGradients();
//     paged->forward(experts, record_experts);                      // experts: those with slots, ascending
//     paged->backward(experts, Chunk::whole, record_down); ... backward(experts, Chunk::whole, record_up);
//     paged->squares(scale); ... clip ...
//     paged->adamw(numbers);
//
// An expert without a gradient misses the step: it is told of it when its pages are next wanted (forward, settle), and
// then takes all missed steps in their order with a gradient of zero, the bits of having taken them at once.
//
// After an error of the pages themselves (io, memory, device) they may be older than they should be, and every call
// fails with that error.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/formats/tensor_source.h"
#include "engine/moe/weights.h"
#include "engine/train/parameter_set.h"
#include "vkmoe/paging.h"
#include "vkmoe/training_paging.h"

namespace vkmoe {
inline namespace v1 {

class PagedTraining {
public:
    enum Kind : uint32_t { weights, gradients, first, second, totals, partials, kinds };
    enum class Chunk { whole, some, last };  // of a batch: all of it; one of several; the last of several
    using Record = std::function<void(Commands&)>;

    // `layer`: loaded without experts (Weights::loadUnpaged, f32), which this gives it; it must stay where it is.
    // `tensors`: of one page. Errors: what reading the experts has; out_of_memory for budgets below four pages; io.
    static Result<std::unique_ptr<PagedTraining>> create(Engine& engine, const formats::LayerSource& source,
                                                         const Weights& layer, std::vector<ParameterTensor> tensors,
                                                         const TrainingPaging& options);

    // [experts + 2] addresses for BackwardPass, of gradients, totals or partials. The last two entries are for other
    // gradients: copied from those of a table with all entries.
    const Buffer& table(Kind kind) const { return tables_[kind]; }
    Result<void> setOthers(Kind kind, const Buffer& table);

    Result<void> zeroGradients();
    // Works in waves; `record` is called for each and skips, as its kernels do, experts that are not there.
    Result<void> forward(std::span<const uint32_t> experts, const Record& record);
    Result<void> backward(std::span<const uint32_t> experts, Chunk chunk, const Record& record);

    // Sums the squares of all gradients; ParameterSet::gradNorm goes on from `sum`.
    struct Squares {
        double sum = 0;
        std::string fault;
    };
    Result<Squares> squares(float scale);

    // A step of the experts with gradients, which are zero afterwards. Errors: bad_input for a weight or moment that
    // went out of range, as ParameterSet::checkWeights.
    Result<void> adamw(const Adamw& numbers);
    // All missed steps of all experts.
    Result<void> settle();

    // All pages of a kind, [experts][words]. Call settle() before, unless it is gradients.
    Result<std::vector<std::vector<float>>> read(Kind kind);
    // Moments of a checkpoint, [experts * words], as they are read: settled.
    Result<void> restore(std::span<const float> first_moments, std::span<const float> second_moments, uint64_t step);

    uint32_t experts() const { return experts_; }
    uint64_t pageWords() const { return words_; }
    const Pager& pager() const { return *pager_; }
    PagingReport report() const;

private:
    // What is done with each expert of a wave.
    using Each = std::function<Result<void>(Commands&, uint32_t expert)>;
    struct Needs {
        std::vector<Kind> kinds;
        uint32_t changes = 0;  // bit i: of kinds[i]
    };

    PagedTraining(Engine& engine, const Weights& layer, std::vector<ParameterTensor> tensors)
        : engine_(&engine),
          experts_(layer.description.experts),
          words_(layer.routed.bytes() / 4),
          tensors_(std::move(tensors)) {}
    Result<void> allocate();
    Result<void> openPager(const formats::LayerSource& source, const Weights& layer, const TrainingPaging& options);
    Result<void> turn(std::span<const uint32_t> experts, const Needs& needs, const Each& each, const Record& all);
    Result<void> tryTurn(std::span<const uint32_t> experts, const Needs& needs, const Each& each, const Record& all);
    Result<void> submit(Commands& commands, bool wait);
    PageId pageOf(Kind kind, uint32_t expert) const { return kind * experts_ + expert; }
    uint64_t address(Kind kind, uint32_t expert) const { return pager_->address(pageOf(kind, expert)); }
    void zero(Commands& commands, uint32_t expert) const;
    bool isBehind(uint32_t expert);
    Result<void> catchUp(std::span<const uint32_t> experts);
    Result<void> makeSteps(Commands& commands, uint32_t expert);
    Result<void> stepAll(std::span<const uint32_t> experts);
    Result<void> fetch();
    std::vector<uint32_t> withGradients() const;
    std::string place(uint32_t expert, uint64_t word) const;
    const uint32_t* result(uint64_t offset) const;
    uint64_t sumsAt(uint32_t expert) const;

    Engine* engine_;
    uint32_t experts_;
    uint64_t words_;  // of a page
    std::vector<ParameterTensor> tensors_;
    Buffer tables_[kinds];  // that of weights is Weights::table
    // Words: status of squares [experts, 2], of weights [experts, 2], partial sums [experts][partials].
    Buffer results_, download_;
    const Kernel *adamw_ = nullptr, *grad_squares_ = nullptr;
    std::unique_ptr<Pager> pager_;
    std::optional<Error> failure_;
    std::vector<bool> has_gradient_, ever_;  // [experts] since the gradients were zeroed; since the beginning
    // Steps that some expert has yet to take, and how many of them each has taken.
    std::vector<Adamw> steps_;
    std::vector<size_t> taken_;
    size_t decays_ = 0;  // behind the last of them with weight decay
    uint64_t step_ = 0;  // of all
    uint64_t submits_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
