// Layer: one mixture-of-experts layer on an engine's device: route tokens, run their experts, tell what happened.
//
// A layer's output has the same bits on every device, for any batch: with dropless dispatch a token's result does not
// depend on which other tokens are with it. Tokens are rows of f32, [tokens, model_dim], row-major.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vkmoe/description.h"
#include "vkmoe/engine.h"
#include "vkmoe/pool_statistics.h"

namespace vkmoe {

namespace formats {
struct LayerSource;
}

inline namespace v1 {

struct LayerState;
struct Weights;
struct Visit;
class Pager;

// Who went where. Row t holds token t's experts in selection order (best first) and their gates.
inline constexpr uint32_t kNoExpert = 0xffffffff;
inline constexpr uint32_t kMostPoolWidth = 1024;  // of a row of pool routes

struct Routes {
    uint32_t top_k = 0;  // width of a row: the description's top_k, but for fixed_budget dispatch and pool routes
    std::vector<uint32_t> experts;  // [tokens, top_k]; of a shorter row the rest is kNoExpert
    std::vector<float> gates;       // [tokens, top_k] final: renormalised and scaled
};

struct ExpertStatistics {
    uint64_t tokens = 0;          // that were sent to the expert; not the padding of capacity dispatch, whose gate is 0
    double mean_gate = 0;         // over those tokens; 0 without any, as are the next two
    double output_rms = 0;        // root of the mean of y^2 over all its output entries, before the gate
    double quiet_fraction = 0;    // activation sparsity: hidden values with |h| < 0.01
    double mean_probability = 0;  // softmax over all experts, over all tokens
};

struct Introspection {
    std::vector<ExpertStatistics> experts;
    double load_balance_loss =
        0;                   // E * sum over e of (share of assignments)*(mean probability); 1 is even, E is collapse
    PoolIntrospection pool;  // over all calls since the layer was opened or its statistics were reset
};

struct ForwardOptions {
    Precision precision = Precision::exact;
    bool introspection = true;
    // Routes to follow instead of the router's, for all tokens of the call. Experts must exist and (but for the padding
    // of capacity dispatch) differ.
    const Routes* forced_routes = nullptr;
    // The forced routes' rules are those of titan-synapse's pool: a token goes to as many experts as are listed,
    // whatever top_k is; an expert that does not exist is skipped, its gate lost; one that is listed twice runs twice
    // and counts twice.
    bool pool_routes = false;
    bool training = false;  // noise on the logits, where the description has it
    uint32_t max_batch =
        0;  // tokens of one submit at most; 0: chosen by memory and by measured time. Never changes bits.
    // Called after each submit with tokens done and all; returning false cancels (the result is then an error). It runs
    // while the engine is locked: it must not call the engine or its layers.
    std::function<bool(uint64_t done, uint64_t all)> progress = {};
};

struct ForwardResult {
    std::vector<float> output;  // [tokens, model_dim]
    Routes routes;
    Introspection introspection;
    uint64_t tokens = 0;
    double seconds = 0;
    uint64_t submits = 0, host_waits = 0;  // of this call
};

// A layer must be gone before its engine.
class Layer {
public:
    // Reads a MoE0 file or a safetensors layer file (stack.h runs those with several layers). With `compat` what the
    // reference engine accepts is accepted, with warnings.
    // Errors: io, bad_input (the sentence names file, field and number; non-finite weights are among it),
    // out_of_memory.
    static Result<Layer> open(Engine& engine, const std::string& path, bool compat = false);

    // The same from an opened source.
    static Result<Layer> create(Engine& engine, const formats::LayerSource& source);

    Layer(Layer&&) noexcept;
    Layer& operator=(Layer&&) noexcept;
    ~Layer();

    const Description& description() const;
    const std::vector<std::string>& warnings() const;
    uint64_t pageBytes() const;    // of one routed expert on the device
    uint64_t weightBytes() const;  // of all weights on the device

    // Running statistics of the experts; a call with introspection adds to them when it succeeds. Not locked: not to be
    // used while another thread is in forward.
    PoolStatistics& pool();

    // Runs tokens [tokens, model_dim] (any number, also none). With capacity and fixed_budget dispatch the result
    // depends on which tokens are in the call (never on the device or on max_batch).
    // Errors: bad_input if x is no whole number of tokens or holds a value that is not finite or not below 2^63; the
    // sentence names token and element. Nothing is delivered then. A device that is lost is opened again (the CPU after
    // three losses in a minute), the layer loaded again, and the call made again: same bits.
    Result<ForwardResult> forward(std::span<const float> x, const ForwardOptions& options = {});

private:
    friend class Stack;
    struct State;
    explicit Layer(std::unique_ptr<State> state);
    static Result<Layer> create(Engine& engine, Weights weights, const formats::LayerSource& source);
    LayerState& state();
    const formats::LayerSource& source() const;
    void usePager(Pager& pager, uint32_t group);
    void setTrace(std::vector<Visit>* visits);
    Result<void> checkPager() const;
    Result<void> reload();
    Result<ForwardResult> forwardOnce(std::span<const float> x, const ForwardOptions& options);
    Result<void> checkCall(std::span<const float> x, const Routes* forced, bool pool_routes) const;
    Result<Routes> budgetRoutes(std::span<const float> x, const ForwardOptions& options);
    std::unique_ptr<State> state_;
};

}  // namespace v1
}  // namespace vkmoe
