#include "vkmoe/layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/formats/moe0.h"
#include "engine/moe/forward_pass.h"
#include "engine/moe/introspection.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kLargestBatch = 16384;  // tokens of a submit
constexpr double kFirstSubmit = 2e9;       // floating-point operations, before anything was measured
constexpr double kSmallSubmit = 1e8;       // ... that no device is too slow for: no batch is cut below this
constexpr double kLongestSubmit = 0.1;     // seconds: watchdogs stay asleep
constexpr uint64_t kWorkspaceBytes = uint64_t{512} << 20;

using Clock = std::chrono::steady_clock;
double secondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

template <class T>
std::span<const T> view(const Buffer& buffer, uint64_t offset, size_t count) {
    return {reinterpret_cast<const T*>(buffer.mapped().data() + offset), count};
}

// Tokens whose work is about this many operations, 1 to `most`.
uint32_t tokensFor(const Description& d, double operations, uint32_t most) {
    double expert = (d.gated() ? 6.0 : 4.0) * d.model_dim;
    double token =
        expert * d.hidden_dim * d.top_k + expert * d.shared_dim + 2.0 * d.experts * (double(d.model_dim) + d.experts);
    return uint32_t(std::clamp(operations / token, 1.0, double(most)));
}

// Kernels trust the routes: every expert must exist, once a token, with a gate that may be used.
Result<void> checkForced(const Routes& routes, const Description& d, uint64_t tokens) {
    if (routes.top_k != d.top_k || routes.experts.size() != tokens * d.top_k ||
        routes.gates.size() != routes.experts.size())
        return Error{ErrorCode::bad_input,
                     fmt::format("the forced routes are not {} tokens of top_k = {}", tokens, d.top_k)};
    for (uint64_t a = 0; a < routes.experts.size(); ++a) {
        uint32_t expert = routes.experts[a];
        auto token = routes.experts.begin() + std::ptrdiff_t(a / d.top_k * d.top_k);
        if (expert >= d.experts || out_of_range(routes.gates[a]) || std::count(token, token + d.top_k, expert) != 1)
            return Error{ErrorCode::bad_input,
                         fmt::format("the forced routes send token {} to expert {} with gate {}: experts are 0 to {}, "
                                     "each once a token, gates finite and below 2^63",
                                     a / d.top_k, expert, routes.gates[a], d.experts - 1)};
    }
    return {};
}

}  // namespace

struct Layer::State {
    Engine* engine;
    Weights weights;
    std::vector<std::string> warnings;
    std::optional<Workspace> workspace;
    bool workspace_is_largest = false;  // memory allows no more tokens at a time
    uint32_t batch =
        tokensFor(weights.description, kFirstSubmit, 1024);  // tokens of a submit, corrected by measured time

    Result<void> ensureWorkspace(uint64_t tokens, uint32_t max_batch);
    // Kernels built and proved, once for each of the four kinds of pass.
    std::optional<ForwardPass> passes[2][2];

    Result<const ForwardPass*> passFor(Precision precision, bool introspection);
    Result<void> runBatch(const ForwardPass& pass, std::span<const float> x, const Routes* forced, uint64_t first,
                          uint32_t tokens, ForwardResult& result, IntrospectionSums* sums);
    Result<void> runAll(const ForwardPass& pass, std::span<const float> x, const ForwardOptions& options,
                        ForwardResult& result);
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
const std::vector<std::string>& Layer::warnings() const { return state_->warnings; }
uint64_t Layer::pageBytes() const { return state_->weights.routed.bytes(); }
uint64_t Layer::weightBytes() const { return state_->weights.bytes; }

Result<Layer> Layer::open(Engine& engine, const std::string& path, bool compat) {
    VKMOE_TRY(file, openFile(path));
    VKMOE_TRY(source, formats::readMoe0(file, {.compat = compat}));
    return create(engine, source);
}

Result<Layer> Layer::create(Engine& engine, const formats::LayerSource& source) {
    std::lock_guard lock(engine.mutex());
    VKMOE_TRY(weights, Weights::load(engine, source));
    return Layer(std::unique_ptr<State>(new State{&engine, std::move(weights), source.warnings, std::nullopt}));
}

// A workspace for this many tokens, or for as many at a time as memory allows.
Result<void> Layer::State::ensureWorkspace(uint64_t tokens, uint32_t max_batch) {
    uint64_t wanted = std::min<uint64_t>(tokens, max_batch != 0 ? std::min(max_batch, batch) : batch);
    if (workspace && (workspace->capacity >= wanted || workspace_is_largest)) return {};
    workspace.reset();
    Device& device = engine->device();
    uint64_t left = device.ledger().budget() - std::min(device.ledger().used(), device.ledger().budget());
    uint64_t allowed = std::min({left / 10 * 9, device.info().limits.max_allocation, kWorkspaceBytes});
    uint32_t largest = Workspace::largestCapacity(weights.description, allowed);
    if (largest == 0)
        return Error{ErrorCode::out_of_memory,
                     fmt::format("activations: not even one token fits in the {} bytes left of {}", left,
                                 device.ledger().budget())};
    workspace_is_largest = wanted >= largest;
    VKMOE_TRY(made, Workspace::create(device, weights.description, uint32_t(std::min<uint64_t>(wanted, largest))));
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

Result<void> Layer::State::runBatch(const ForwardPass& pass, std::span<const float> x, const Routes* forced,
                                    uint64_t first, uint32_t tokens, ForwardResult& result, IntrospectionSums* sums) {
    const Description& d = weights.description;
    Workspace& w = *workspace;
    size_t slots = size_t{tokens} * d.top_k, values = size_t{tokens} * d.model_dim;
    std::memcpy(w.upload.mapped().data(), x.data() + first * d.model_dim, values * 4);
    if (forced) {
        std::memcpy(w.upload.mapped().data() + w.forced_selected, forced->experts.data() + first * d.top_k, slots * 4);
        std::memcpy(w.upload.mapped().data() + w.forced_gates, forced->gates.data() + first * d.top_k, slots * 4);
    }
    VKMOE_TRY(value, engine->device().submit(pass.record(w, tokens, forced != nullptr)));
    VKMOE_CHECK(engine->device().wait(value));
    VKMOE_CHECK(pass.check(w, first));
    auto out = view<float>(w.download, w.back.out, values);
    auto selected = view<uint32_t>(w.download, w.back.selected, slots);
    auto gates = view<float>(w.download, w.back.gates, slots);
    std::copy(out.begin(), out.end(), result.output.begin() + ptrdiff_t(first * d.model_dim));
    result.routes.experts.insert(result.routes.experts.end(), selected.begin(), selected.end());
    result.routes.gates.insert(result.routes.gates.end(), gates.begin(), gates.end());
    if (!sums) return {};
    sums->add({tokens, selected, gates, view<float>(w.download, w.back.probabilities, size_t{tokens} * d.experts),
               view<uint32_t>(w.download, w.back.slot_of, slots), view<float>(w.download, w.back.energy, slots),
               view<uint32_t>(w.download, w.back.scale, slots), view<uint32_t>(w.download, w.back.quiet, slots)});
    return {};
}

Result<void> Layer::State::runAll(const ForwardPass& pass, std::span<const float> x, const ForwardOptions& options,
                                  ForwardResult& result) {
    IntrospectionSums sums(weights.description);
    for (uint64_t first = 0; first < result.tokens;) {
        VKMOE_CHECK(ensureWorkspace(result.tokens - first, options.max_batch));
        uint64_t most = std::min<uint64_t>(workspace->capacity,
                                           options.max_batch != 0 ? std::min(options.max_batch, batch) : batch);
        auto tokens = uint32_t(std::min(result.tokens - first, most));
        auto start = Clock::now();
        VKMOE_CHECK(
            runBatch(pass, x, options.forced_routes, first, tokens, result, options.introspection ? &sums : nullptr));
        double seconds = secondsSince(start);
        if (seconds > kLongestSubmit) batch = std::max(tokens / 2, tokensFor(weights.description, kSmallSubmit, 256));
        if (seconds < kLongestSubmit / 4 && tokens == batch) batch = std::min(batch * 2, kLargestBatch);
        first += tokens;
        if (options.progress && !options.progress(first, result.tokens))
            return Error{ErrorCode::unsupported, fmt::format("cancelled after {} of {} tokens", first, result.tokens)};
    }
    result.introspection = options.introspection ? sums.result() : Introspection{};
    return {};
}

Result<ForwardResult> Layer::forward(std::span<const float> x, const ForwardOptions& options) {
    std::lock_guard lock(state_->engine->mutex());
    const Description& d = description();
    if (x.size() % d.model_dim != 0)
        return Error{
            ErrorCode::bad_input,
            fmt::format("the input has {} values, no whole number of tokens of {} values", x.size(), d.model_dim)};
    if (options.forced_routes) VKMOE_CHECK(checkForced(*options.forced_routes, d, x.size() / d.model_dim));
    VKMOE_TRY(pass, state_->passFor(options.precision, options.introspection));
    ForwardResult result;
    result.tokens = x.size() / d.model_dim;
    result.output.resize(x.size());
    result.routes.top_k = d.top_k;
    DeviceCounters before = state_->engine->device().counters();
    auto start = Clock::now();
    VKMOE_CHECK(state_->runAll(*pass, x, options, result));
    result.seconds = secondsSince(start);
    DeviceCounters after = state_->engine->device().counters();
    result.submits = after.submits - before.submits;
    result.host_waits = after.waits - before.waits;
    return result;
}

}  // namespace v1
}  // namespace vkmoe
