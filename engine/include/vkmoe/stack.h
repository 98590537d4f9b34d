// Stack: the layers of a model file, run one after the other: y = x + moe(x) at each layer of a stack, y = moe(x) where
// the file is a single layer.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "vkmoe/layer.h"
#include "vkmoe/paging.h"

namespace vkmoe {

namespace formats {
struct ModelSource;
}

inline namespace v1 {

struct StackResult {
    std::vector<float> output;          // [tokens, model_dim]
    std::vector<ForwardResult> layers;  // what each layer did; its output is not kept
    uint64_t tokens = 0;
    double seconds = 0;
    uint64_t submits = 0, host_waits = 0;  // of this call
    std::optional<PagingReport> paging;    // of a stack that was opened with PagingOptions
};

// A stack must be gone before its engine.
class Stack {
public:
    // Opens a MoE0 file, a safetensors layer file, the index of one in several files, or a folder with one.
    // Errors: as Layer::open.
    static Result<Stack> open(Engine& engine, const std::string& path, bool compat = false);
    static Result<Stack> create(Engine& engine, const formats::ModelSource& source);

    // The same with the routed experts of all layers in pages, read from the file as they are needed: at once if the
    // budgets hold them all. Errors also: out_of_memory if they hold not even one; io, bad_input when a forward pass
    // reads a page and the file has changed or holds values that are not finite.
    static Result<Stack> open(Engine& engine, const std::string& path, const PagingOptions& paging,
                              bool compat = false);
    static Result<Stack> create(Engine& engine, const formats::ModelSource& source, const PagingOptions& paging);

    Stack(Stack&&) noexcept;
    Stack& operator=(Stack&&) noexcept;
    ~Stack();

    bool residual() const;  // true for a stack: x is added at each layer
    uint32_t modelDim() const { return layers().front().description().model_dim; }
    // Each runs by itself, too; with pages, after a lost device only once forward() has opened them again.
    std::vector<Layer>& layers();
    const std::vector<Layer>& layers() const;
    const std::vector<std::string>& warnings() const;
    // Null: all weights are on the device. A forward() that lost the device leaves another one.
    const Pager* pager() const;

    // Runs tokens through all layers. Only results wait for the device; with pages in the file each layer's routes do,
    // too. `forced_routes`: none, or one for each layer (a null pointer: the layer's router decides); the one in
    // `options` is not used. Errors: as Layer::forward; in a stack a sentence that is not about x begins with the
    // layer, "layers.3: ". Statistics count only calls that succeed.
    Result<StackResult> forward(std::span<const float> x, const ForwardOptions& options = {},
                                std::span<const Routes* const> forced_routes = {});

private:
    struct State;
    explicit Stack(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace v1
}  // namespace vkmoe
