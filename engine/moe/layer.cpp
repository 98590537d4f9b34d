#include "vkmoe/layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "engine/formats/model_source.h"
#include "engine/moe/fixed_budget.h"
#include "engine/moe/runner.h"
#include "engine/turn.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Kernels trust the routes: every expert must exist, once a token, with a gate that may be used. A pool is more
// lenient: tokens go to as many experts as its caller says, also to one twice, and to none where there is none of that
// number.
Result<void> checkForced(const Routes& routes, const Description& d, uint64_t tokens, bool pool) {
    bool budget = d.dispatch == Dispatch::fixed_budget && routes.top_k >= 1 && routes.top_k <= d.experts;
    bool any_width = budget || (pool && routes.top_k >= 1 && routes.top_k <= kMostPoolWidth);
    if ((routes.top_k != d.top_k && !any_width) || routes.experts.size() != tokens * routes.top_k ||
        routes.gates.size() != routes.experts.size())
        return Error{ErrorCode::bad_input,
                     fmt::format("the forced routes are not {} tokens of top_k = {}", tokens, d.top_k)};
    for (uint64_t a = 0; a < routes.experts.size(); ++a) {
        uint32_t expert = routes.experts[a];
        auto token = routes.experts.begin() + std::ptrdiff_t(a / routes.top_k * routes.top_k);
        bool absent = expert >= d.experts && (pool || (budget && expert == kNoExpert));
        bool once =
            pool || absent || d.dispatch == Dispatch::capacity || std::count(token, token + routes.top_k, expert) == 1;
        if ((expert >= d.experts && !absent) || out_of_range(routes.gates[a]) || !once)
            return Error{ErrorCode::bad_input,
                         fmt::format("the forced routes send token {} to expert {} with gate {}: experts are 0 to {}, "
                                     "each once a token, gates finite and below 2^63",
                                     a / routes.top_k, expert, routes.gates[a], d.experts - 1)};
    }
    return {};
}

}  // namespace

struct Layer::State : LayerState {
    Runner runner;
    formats::LayerSource source;  // to load it again from, should the device be lost
    uint64_t generation;          // of the engine's device that it is on
    State(Engine& on, Weights loaded, const formats::LayerSource& from)
        : LayerState{&on, std::move(loaded), from.warnings},
          runner(on, {this}, false),
          source(from),
          generation(on.generation()) {}
};

Layer::Layer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Layer::Layer(Layer&&) noexcept = default;

Layer& Layer::operator=(Layer&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}

// Its memory returns to a device that other layers may be using.
Layer::~Layer() {
    if (!state_) return;
    Turn turn(*state_->engine);
    state_.reset();
}

const Description& Layer::description() const { return state_->weights.description; }
PoolStatistics& Layer::pool() { return state_->pool; }
const std::vector<std::string>& Layer::warnings() const { return state_->warnings; }
uint64_t Layer::pageBytes() const { return state_->weights.routed.bytes(); }
uint64_t Layer::weightBytes() const { return state_->weights.bytes; }

Result<Layer> Layer::open(Engine& engine, const std::string& path, bool compat) {
    VKMOE_TRY(model, formats::openModel(path, {.compat = compat}));
    if (model.stack)
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: a stack of {} layers, not one layer", path, model.layers.size())};
    return create(engine, model.layers.front());
}

Result<Layer> Layer::create(Engine& engine, const formats::LayerSource& source) {
    Turn turn(engine);
    VKMOE_TRY(weights, Weights::load(engine, source));
    return create(engine, std::move(weights), source);
}

Result<Layer> Layer::create(Engine& engine, Weights weights, const formats::LayerSource& source) {
    auto state = std::make_unique<State>(engine, std::move(weights), source);
    if (source.description.dispatch == Dispatch::capacity) {
        VKMOE_TRY(taken, engine.device().allocate(uint64_t{source.description.experts} * 4, Memory::device,
                                                  "tokens taken by each expert"));
        state->taken = std::move(taken);
    }
    return Layer(std::move(state));
}

LayerState& Layer::state() { return *state_; }
const formats::LayerSource& Layer::source() const { return state_->source; }
void Layer::usePager(Pager& pager, uint32_t group) { state_->runner.usePager(pager, group); }
void Layer::setTrace(std::vector<Visit>* visits) { state_->runner.trace = visits; }

Result<void> Layer::checkCall(std::span<const float> x, const Routes* forced, bool pool_routes) const {
    const Description& d = description();
    if (x.size() % d.model_dim != 0)
        return Error{
            ErrorCode::bad_input,
            fmt::format("the input has {} values, no whole number of tokens of {} values", x.size(), d.model_dim)};
    return forced ? checkForced(*forced, d, x.size() / d.model_dim, pool_routes) : Result<void>();
}

// The routes of a fixed_budget layer, which depend on all tokens of the call; no routes: its exact algorithm is due.
Result<Routes> Layer::budgetRoutes(std::span<const float> x, const ForwardOptions& options) {
    const Description& d = description();
    auto budget = tokensPerExpert(d, x.size() / d.model_dim);
    if (d.dispatch != Dispatch::fixed_budget || !budget) return Routes{};
    if (*budget == 0)
        return Error{ErrorCode::bad_input,
                     fmt::format("tokens_per_expert_ratio is {}, which leaves no token for any expert of a call of {}",
                                 d.tokens_per_expert_ratio, x.size() / d.model_dim)};
    VKMOE_TRY(logits, state_->runner.logits({x, options}));
    return fixedBudgetRoutes(d, logits, *budget);
}

// A layer of a paged stack has no experts of its own: without the stack's pager it cannot run.
Result<void> Layer::checkPager() const {
    const State& s = *state_;
    if (!s.weights.paged || (s.generation == s.engine->generation() && s.runner.pager())) return {};
    return Error{ErrorCode::device_lost, "the device was lost; the layer's stack opens its pages again when it runs"};
}

// The same layer on the device that the engine has now; what it has learned about its experts stays.
Result<void> Layer::reload() {
    State& old = *state_;
    VKMOE_TRY(weights, old.weights.paged ? Weights::loadUnpaged(*old.engine, old.source)
                                         : Weights::load(*old.engine, old.source));
    VKMOE_TRY(made, create(*old.engine, std::move(weights), old.source));
    std::swap(made.state_->pool, old.pool);
    made.state_->number = old.number;
    std::swap(made.state_, state_);
    return {};
}

Result<ForwardResult> Layer::forward(std::span<const float> x, const ForwardOptions& options) {
    Engine& engine = *state_->engine;
    Turn turn(engine);
    VKMOE_CHECK(checkPager());
    for (;;) {
        auto current = state_->generation == engine.generation() ? Result<void>() : reload();
        auto result = current ? forwardOnce(x, options) : Result<ForwardResult>(std::move(current).error());
        if (result || result.error().code != ErrorCode::device_lost || state_->weights.paged) return result;
        VKMOE_CHECK(engine.recover());
    }
}

Result<ForwardResult> Layer::forwardOnce(std::span<const float> x, const ForwardOptions& options) {
    VKMOE_CHECK(checkCall(x, options.forced_routes, options.pool_routes));
    DeviceCounters before = state_->engine->device().counters();
    auto start = std::chrono::steady_clock::now();
    const Routes* forced = options.forced_routes;
    Routes budget;
    if (!forced) {
        VKMOE_TRY(routes, budgetRoutes(x, options));
        budget = std::move(routes);
        if (budget.top_k != 0) forced = &budget;
    }
    VKMOE_TRY(results, state_->runner.run({x, options, std::span(&forced, 1)}));
    ForwardResult result = std::move(results.front());
    DeviceCounters after = state_->engine->device().counters();
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.submits = after.submits - before.submits;
    result.host_waits = after.waits - before.waits;
    return result;
}

}  // namespace v1
}  // namespace vkmoe
