#include "vkmoe/layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "engine/formats/model_source.h"
#include "engine/moe/fixed_budget.h"
#include "engine/moe/forward_pass.h"
#include "engine/moe/introspection.h"
#include "host/views.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kLargestBatch = 16384;  // tokens of a submit
constexpr double kFirstSubmit = 2e9;       // floating-point operations, before anything was measured
constexpr double kFirstCpuSubmit = 4e11;   // ... on the CPU, which has no watchdog: many rows an expert are faster
constexpr double kFirstSoftSubmit = 1e10;  // ... on a software driver, which has none either
constexpr double kSmallSubmit = 1e8;       // ... that no device is too slow for: no batch is cut below this
constexpr double kLongestSubmit = 0.1;     // seconds: watchdogs stay asleep
constexpr double kLongestCpuSubmit = 2;    // ... progress is told, a call can be cancelled
constexpr uint64_t kWorkspaceBytes = uint64_t{512} << 20;

using Clock = std::chrono::steady_clock;
double secondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Tokens whose work is about this many operations, 1 to `most`.
uint32_t tokensFor(const Description& d, double operations, uint32_t most) {
    double expert = (d.gated() ? 6.0 : 4.0) * d.model_dim;
    double token =
        expert * d.hidden_dim * d.top_k + expert * d.shared_dim + 2.0 * d.experts * (double(d.model_dim) + d.experts);
    return uint32_t(std::clamp(operations / token, 1.0, double(most)));
}

// Kernels trust the routes: every expert must exist, once a token, with a gate that may be used; a pool is more
// lenient.
Result<void> checkForced(const Routes& routes, const Description& d, uint64_t tokens, bool pool) {
    bool budget = d.dispatch == Dispatch::fixed_budget && routes.top_k >= 1 && routes.top_k <= d.experts;
    if ((routes.top_k != d.top_k && !budget) || routes.experts.size() != tokens * routes.top_k ||
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

// Tokens an expert accepts of a call (entrenar's formula, in f32).
uint32_t capacityOf(const Description& d, uint64_t tokens) {
    float capacity = std::ceil(d.capacity_factor * float(tokens * d.top_k) / float(d.experts));
    return capacity < 1 ? 1 : uint32_t(std::min(capacity, 0x1p30f));
}

}  // namespace

struct Layer::State {
    Engine* engine;
    Weights weights;
    std::vector<std::string> warnings;
    PoolStatistics pool{weights.description.experts};
    std::optional<Workspace> workspace = {};
    bool workspace_is_largest = false;  // memory allows no more tokens at a time
    DeviceType type = engine->device().info().type;
    bool watched = type != DeviceType::cpu && type != DeviceType::software;
    // Tokens of a submit, corrected by measured time.
    uint32_t batch = tokensFor(weights.description,
                               watched                   ? kFirstSubmit
                               : type == DeviceType::cpu ? kFirstCpuSubmit
                                                         : kFirstSoftSubmit,
                               watched ? 1024 : kLargestBatch);
    Buffer taken = {};  // [experts] of capacity dispatch: it outlives the batches of a call

    // Kernels built and proved, once for each of the four kinds of pass.
    std::optional<ForwardPass> passes[2][2] = {};

    // What all batches of one call share.
    struct Call {
        const ForwardPass* pass;
        std::span<const float> x;
        const ForwardOptions& options;
        const Routes* forced;
        uint32_t width, capacity;
    };

    Result<void> ensureWorkspace(uint64_t tokens, uint32_t width, uint32_t max_batch);
    Result<const ForwardPass*> passFor(Precision precision, bool introspection);
    void fillUpload(const Call& call, uint64_t first, uint32_t tokens);
    Result<void> submit(const Commands& commands, const Call& call, uint64_t first);
    Result<void> runBatch(const Call& call, uint64_t first, uint32_t tokens, ForwardResult& result,
                          IntrospectionSums* sums);
    Result<void> runAll(const Call& call, ForwardResult& result);
    // Calls body(first, tokens) batch by batch until all tokens are done.
    template <class Body>
    Result<void> eachBatch(const Call& call, const Body& body);
    Result<std::vector<float>> allLogits(const Call& call);
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
    std::lock_guard lock(state_->engine->mutex());
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
    std::lock_guard lock(engine.mutex());
    VKMOE_TRY(weights, Weights::load(engine, source));
    auto state = std::unique_ptr<State>(new State{&engine, std::move(weights), source.warnings});
    if (source.description.dispatch == Dispatch::capacity) {
        VKMOE_TRY(taken, engine.device().allocate(uint64_t{source.description.experts} * 4, Memory::device,
                                                  "tokens taken by each expert"));
        state->taken = std::move(taken);
    }
    return Layer(std::move(state));
}

// A workspace for this many tokens, or for as many at a time as memory allows.
Result<void> Layer::State::ensureWorkspace(uint64_t tokens, uint32_t width, uint32_t max_batch) {
    uint64_t wanted = std::min<uint64_t>(tokens, max_batch != 0 ? std::min(max_batch, batch) : batch);
    if (workspace && workspace->width == width && (workspace->capacity >= wanted || workspace_is_largest)) return {};
    workspace.reset();
    Device& device = engine->device();
    uint64_t left = device.ledger().budget() - std::min(device.ledger().used(), device.ledger().budget());
    uint64_t allowed = std::min({left / 10 * 9, device.info().limits.max_allocation, kWorkspaceBytes});
    uint32_t largest = Workspace::largestCapacity(weights.description, width, allowed);
    if (largest == 0)
        return Error{ErrorCode::out_of_memory,
                     fmt::format("activations: not even one token fits in the {} bytes left of {}", left,
                                 device.ledger().budget())};
    workspace_is_largest = wanted >= largest;
    VKMOE_TRY(made,
              Workspace::create(device, weights.description, width, uint32_t(std::min<uint64_t>(wanted, largest))));
    workspace = std::move(made);
    return {};
}

Result<const ForwardPass*> Layer::State::passFor(Precision precision, bool introspection) {
    std::optional<ForwardPass>& pass = passes[size_t(precision)][introspection];
    if (!pass) {
        VKMOE_TRY(made, ForwardPass::create(*engine, weights, precision, introspection));
        pass = made;
    }
    return static_cast<const ForwardPass*>(&*pass);
}

void Layer::State::fillUpload(const Call& call, uint64_t first, uint32_t tokens) {
    Workspace& w = *workspace;
    uint32_t D = weights.description.model_dim;
    size_t slots = size_t{tokens} * call.width;
    std::memcpy(w.upload.mapped().data(), call.x.data() + first * D, size_t{tokens} * D * 4);
    if (!call.forced) return;
    std::byte* upload = w.upload.mapped().data();
    std::memcpy(upload + w.forced_selected, call.forced->experts.data() + first * call.width, slots * 4);
    std::memcpy(upload + w.forced_gates, call.forced->gates.data() + first * call.width, slots * 4);
}

Result<void> Layer::State::submit(const Commands& commands, const Call& call, uint64_t first) {
    VKMOE_TRY(value, engine->device().submit(commands));
    VKMOE_CHECK(engine->device().wait(value));
    return call.pass->check(*workspace, first);
}

Result<void> Layer::State::runBatch(const Call& call, uint64_t first, uint32_t tokens, ForwardResult& result,
                                    IntrospectionSums* sums) {
    const Description& d = weights.description;
    Workspace& w = *workspace;
    size_t slots = size_t{tokens} * call.width, values = size_t{tokens} * d.model_dim;
    fillUpload(call, first, tokens);
    Commands commands;
    if (taken && first == 0) commands.fill(taken, 0, taken.size(), 0);
    commands.append(call.pass->record(
        w, {first, tokens, call.forced != nullptr, call.options.training, call.capacity, taken ? &taken : nullptr}));
    VKMOE_CHECK(submit(commands, call, first));
    auto out = view<float>(w.download, w.back.out, values);
    auto selected = view<uint32_t>(w.download, w.back.selected, slots);
    auto gates = view<float>(w.download, w.back.gates, slots);
    std::copy(out.begin(), out.end(), result.output.begin() + ptrdiff_t(first * d.model_dim));
    result.routes.experts.insert(result.routes.experts.end(), selected.begin(), selected.end());
    result.routes.gates.insert(result.routes.gates.end(), gates.begin(), gates.end());
    if (!sums) return {};
    sums->add({tokens, call.width, selected, gates,
               view<float>(w.download, w.back.probabilities, size_t{tokens} * d.experts),
               view<uint32_t>(w.download, w.back.slot_of, slots), view<float>(w.download, w.back.energy, slots),
               view<uint32_t>(w.download, w.back.scale, slots), view<uint32_t>(w.download, w.back.quiet, slots)});
    return {};
}

template <class Body>
Result<void> Layer::State::eachBatch(const Call& call, const Body& body) {
    const Description& d = weights.description;
    uint64_t all = call.x.size() / d.model_dim;
    uint32_t max_batch = call.options.max_batch;
    for (uint64_t first = 0; first < all;) {
        VKMOE_CHECK(ensureWorkspace(all - first, call.width, max_batch));
        uint64_t most = std::min(workspace->capacity, max_batch != 0 ? std::min(max_batch, batch) : batch);
        auto tokens = uint32_t(std::min(all - first, most));
        auto start = Clock::now();
        VKMOE_CHECK(body(first, tokens));
        double seconds = secondsSince(start);
        double longest = watched ? kLongestSubmit : kLongestCpuSubmit;
        if (seconds > longest) batch = std::max(tokens / 2, tokensFor(d, kSmallSubmit, 256));
        if (seconds < longest / 4 && tokens == batch) batch = std::min(batch * 2, kLargestBatch);
        first += tokens;
    }
    return {};
}

Result<std::vector<float>> Layer::State::allLogits(const Call& call) {
    std::vector<float> logits;
    auto done = eachBatch(call, [&](uint64_t first, uint32_t tokens) -> Result<void> {
        fillUpload(call, first, tokens);
        VKMOE_CHECK(submit(
            call.pass->recordLogits(*workspace, {.first = first, .tokens = tokens, .training = call.options.training}),
            call, first));
        auto some =
            view<float>(workspace->download, workspace->back.logits, size_t{tokens} * weights.description.experts);
        logits.insert(logits.end(), some.begin(), some.end());
        return {};
    });
    if (!done) return std::move(done).error();
    return logits;
}

Result<void> Layer::State::runAll(const Call& call, ForwardResult& result) {
    IntrospectionSums sums(weights.description);
    bool introspect = call.options.introspection;
    auto ran = eachBatch(call, [&](uint64_t first, uint32_t tokens) -> Result<void> {
        VKMOE_CHECK(runBatch(call, first, tokens, result, introspect ? &sums : nullptr));
        uint64_t done = first + tokens;
        if (call.options.progress && !call.options.progress(done, result.tokens))
            return Error{ErrorCode::unsupported, fmt::format("cancelled after {} of {} tokens", done, result.tokens)};
        return {};
    });
    if (!ran || !introspect) return ran;
    pool.add(sums.pool(), result.tokens, weights.description.hidden_dim);
    result.introspection = sums.result();
    result.introspection.pool = pool.introspect();
    return {};
}

Result<ForwardResult> Layer::forward(std::span<const float> x, const ForwardOptions& options) {
    std::lock_guard lock(state_->engine->mutex());
    const Description& d = description();
    if (x.size() % d.model_dim != 0)
        return Error{
            ErrorCode::bad_input,
            fmt::format("the input has {} values, no whole number of tokens of {} values", x.size(), d.model_dim)};
    ForwardResult result;
    result.tokens = x.size() / d.model_dim;
    const Routes* forced = options.forced_routes;
    if (forced) VKMOE_CHECK(checkForced(*forced, d, result.tokens, options.pool_routes));
    VKMOE_TRY(pass, state_->passFor(options.precision, options.introspection));
    State::Call call{pass, x, options, forced, forced ? forced->top_k : d.top_k, capacityOf(d, result.tokens)};
    DeviceCounters before = state_->engine->device().counters();
    auto start = Clock::now();
    Routes budget_routes;
    auto budget = tokensPerExpert(d, result.tokens);
    if (d.dispatch == Dispatch::fixed_budget && budget && !forced) {
        if (*budget == 0)
            return Error{
                ErrorCode::bad_input,
                fmt::format("tokens_per_expert_ratio is {}, which leaves no token for any expert of a call of {}",
                            d.tokens_per_expert_ratio, result.tokens)};
        VKMOE_TRY(logits, state_->allLogits(call));
        budget_routes = fixedBudgetRoutes(d, logits, *budget);
        call.forced = &budget_routes;
        call.width = budget_routes.top_k;
    }
    result.output.resize(x.size());
    result.routes.top_k = call.width;
    VKMOE_CHECK(state_->runAll(call, result));
    result.seconds = secondsSince(start);
    DeviceCounters after = state_->engine->device().counters();
    result.submits = after.submits - before.submits;
    result.host_waits = after.waits - before.waits;
    return result;
}

}  // namespace v1
}  // namespace vkmoe
