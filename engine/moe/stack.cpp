#include "vkmoe/stack.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "engine/formats/check_values.h"
#include "engine/formats/model_source.h"
#include "engine/moe/paged_experts.h"
#include "engine/moe/runner.h"
#include "engine/turn.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// x + y, under the state rule; y is the layer's output, finite and below 2^63 as x is.
Result<void> addResidual(std::span<const float> x, std::vector<float>& y, uint32_t model_dim) {
    for (size_t i = 0; i < y.size(); ++i) {
        y[i] = state_rule(state_rule(x[i]) + y[i]);
        if (out_of_range(y[i]))
            return Error{ErrorCode::bad_input,
                         fmt::format("the sum with the layer's input is not below 2^63 in size at token {}, element {}",
                                     i / model_dim, i % model_dim)};
    }
    return {};
}

}  // namespace

struct Stack::State {
    Engine* engine;
    bool residual = false;
    std::vector<std::string> warnings;
    std::optional<PagingOptions> options = {};
    uint64_t generation = engine->generation();  // of the engine's device that it is on
    std::unique_ptr<PagedExperts> paged = {};    // outlives the layers, whose tables it has set
    std::vector<Layer> layers = {};
    std::unique_ptr<Runner> runner = {};

    Result<void> open(const formats::ModelSource& source);
    Result<void> start();
    Result<void> reload();
    Result<void> openPaged();
    void setTrace(std::vector<Visit>* visits);
    Result<void> checkCall(std::span<const float> x, const ForwardOptions& call,
                           std::span<const Routes* const> forced) const;
    Result<StackResult> throughAll(std::span<const float> x, const ForwardOptions& call,
                                   std::span<const Routes* const> forced);
    Result<StackResult> layerByLayer(std::span<const float> x, const ForwardOptions& call,
                                     std::span<const Routes* const> forced);
    Result<StackResult> forward(std::span<const float> x, const ForwardOptions& call,
                                std::span<const Routes* const> forced);
};

Stack::Stack(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stack::Stack(Stack&&) noexcept = default;

Stack& Stack::operator=(Stack&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}

// Its memory returns to a device that others may be using.
Stack::~Stack() {
    if (!state_) return;
    Turn turn(*state_->engine);
    state_.reset();
}

bool Stack::residual() const { return state_->residual; }
std::vector<Layer>& Stack::layers() { return state_->layers; }
const std::vector<Layer>& Stack::layers() const { return state_->layers; }
const std::vector<std::string>& Stack::warnings() const { return state_->warnings; }
const Pager* Stack::pager() const { return state_->paged ? &state_->paged->pager() : nullptr; }

// ---- opening --------------------------------------------------------------------------------------------------------

Result<Stack> Stack::open(Engine& engine, const std::string& path, bool compat) {
    VKMOE_TRY(source, formats::openModel(path, {.compat = compat}));
    return create(engine, source);
}

Result<Stack> Stack::open(Engine& engine, const std::string& path, const PagingOptions& paging, bool compat) {
    VKMOE_TRY(source, formats::openModel(path, {.compat = compat}));
    return create(engine, source, paging);
}

Result<Stack> Stack::create(Engine& engine, const formats::ModelSource& source) {
    Turn turn(engine);
    auto state = std::unique_ptr<State>(new State{&engine, source.stack, source.warnings});
    VKMOE_CHECK(state->open(source));
    return Stack(std::move(state));
}

Result<Stack> Stack::create(Engine& engine, const formats::ModelSource& source, const PagingOptions& paging) {
    Turn turn(engine);
    auto state = std::unique_ptr<State>(new State{&engine, source.stack, source.warnings, paging});
    VKMOE_CHECK(state->open(source));
    return Stack(std::move(state));
}

Result<void> Stack::State::open(const formats::ModelSource& source) {
    VKMOE_CHECK(formats::checkBeforeLoading(source.layers, options.has_value()));
    for (const auto& layer : source.layers) {
        VKMOE_TRY(weights, options ? Weights::loadUnpaged(*engine, layer) : Weights::load(*engine, layer));
        VKMOE_TRY(made, Layer::create(*engine, std::move(weights), layer));
        made.state().number = uint32_t(layers.size());
        layers.push_back(std::move(made));
    }
    return start();
}

// Runner and pager for the layers as they are now.
Result<void> Stack::State::start() {
    if (options) VKMOE_CHECK(openPaged());
    std::vector<LayerState*> states;
    for (Layer& layer : layers) states.push_back(&layer.state());
    runner = std::make_unique<Runner>(*engine, std::move(states), residual);
    if (paged) runner->usePager(paged->pager(), 0);
    for (size_t i = 0; paged && i < layers.size(); ++i) layers[i].usePager(paged->pager(), uint32_t(i));
    generation = engine->generation();
    return {};
}

Result<void> Stack::State::openPaged() {
    std::vector<const Buffer*> tables;
    std::vector<formats::LayerSource> sources;
    for (Layer& layer : layers) {
        tables.push_back(&layer.state().weights.table);
        sources.push_back(layer.source());
    }
    VKMOE_TRY(made, PagedExperts::open(*engine, std::move(sources), tables, *options));
    paged = std::move(made);
    for (Layer& layer : layers) layer.state().host = paged->host();
    return {};
}

// The same stack on the device that the engine has now.
Result<void> Stack::State::reload() {
    runner.reset();
    paged.reset();
    for (Layer& layer : layers) VKMOE_CHECK(layer.reload());
    return start();
}

// ---- forward --------------------------------------------------------------------------------------------------------

void Stack::State::setTrace(std::vector<Visit>* visits) {
    runner->trace = visits;
    for (Layer& layer : layers) layer.setTrace(visits);
}

// One layer after the other, all tokens each: for layers whose routes depend on all tokens of the call.
Result<StackResult> Stack::State::layerByLayer(std::span<const float> x, const ForwardOptions& call,
                                               std::span<const Routes* const> forced) {
    StackResult result;
    std::vector<float> input;
    for (size_t i = 0; i < layers.size(); ++i) {
        ForwardOptions layer_call = call;
        layer_call.forced_routes = forced.empty() ? nullptr : forced[i];
        if (call.progress)
            layer_call.progress = [&](uint64_t done, uint64_t all) {
                return call.progress(i * all + done, layers.size() * all);
            };
        std::span<const float> from = i == 0 ? x : std::span<const float>(input);
        auto ran = layers[i].forward(from, layer_call);
        auto added =
            ran && residual ? addResidual(from, ran->output, layers[i].description().model_dim) : Result<void>();
        if (!ran || !added) {
            Error error = !ran ? std::move(ran).error() : std::move(added).error();
            bool callers = i == 0 && error.detail.starts_with("the input");
            if (residual && !callers) error.detail = fmt::format("layers.{}: {}", i, error.detail);
            return error;
        }
        input = std::move(ran->output);
        result.layers.push_back(std::move(ran).value());
    }
    result.output = std::move(input);
    return result;
}

Result<void> Stack::State::checkCall(std::span<const float> x, const ForwardOptions& call,
                                     std::span<const Routes* const> forced) const {
    for (size_t i = 0; i < layers.size(); ++i) {
        auto right = layers[i].checkCall(x, forced.empty() ? nullptr : forced[i], call.pool_routes);
        if (right) continue;
        Error error = std::move(right).error();
        if (residual && !error.detail.starts_with("the input"))
            error.detail = fmt::format("layers.{}: {}", i, error.detail);
        return error;
    }
    return {};
}

Result<StackResult> Stack::State::throughAll(std::span<const float> x, const ForwardOptions& call,
                                             std::span<const Routes* const> forced) {
    VKMOE_TRY(results, runner->run({x, call, forced}));
    StackResult result;
    result.layers = std::move(results);
    result.output = std::move(result.layers.back().output);
    return result;
}

Result<StackResult> Stack::forward(std::span<const float> x, const ForwardOptions& options,
                                   std::span<const Routes* const> forced_routes) {
    State& s = *state_;
    Turn turn(*s.engine);
    VKMOE_CHECK(s.checkCall(x, options, forced_routes));
    for (;;) {
        auto current = s.generation == s.engine->generation() && s.runner ? Result<void>() : s.reload();
        auto result = current ? s.forward(x, options, forced_routes) : Result<StackResult>(std::move(current).error());
        if (result || result.error().code != ErrorCode::device_lost) return result;
        VKMOE_CHECK(s.engine->recover());
    }
}

Result<StackResult> Stack::State::forward(std::span<const float> x, const ForwardOptions& call,
                                          std::span<const Routes* const> forced) {
    DeviceCounters before = engine->device().counters();
    if (paged) paged->startReport();
    std::vector<Visit> visits;
    setTrace(options && options->trace ? &visits : nullptr);
    auto start = std::chrono::steady_clock::now();
    bool whole_calls = std::any_of(layers.begin(), layers.end(), [](const Layer& layer) {
        return layer.description().dispatch == Dispatch::fixed_budget;
    });
    auto ran = whole_calls ? layerByLayer(x, call, forced) : throughAll(x, call, forced);
    setTrace(nullptr);
    if (!ran) return ran;
    ran->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    DeviceCounters after = engine->device().counters();
    ran->submits = after.submits - before.submits;
    ran->host_waits = after.waits - before.waits;
    ran->tokens = ran->layers.front().tokens;
    if (!paged) return ran;
    ran->paging = paged->report();
    ran->paging->visits = std::move(visits);
    return ran;
}

}  // namespace v1
}  // namespace vkmoe
