#include "vkmoe/stack.h"

#include <fmt/format.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <chrono>

#include "engine/formats/model_source.h"
#include "engine/moe/expert_store.h"
#include "engine/moe/host_experts.h"
#include "engine/moe/runner.h"
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

uint64_t hostMemory() {
    struct sysinfo info {};
    return ::sysinfo(&info) == 0 ? uint64_t(info.totalram) * info.mem_unit : 0;
}

constexpr double kAsFast = 0.8;  // of reading its own memory: copying to that is not worth it

bool isGpu(const Device& device) {
    DeviceType type = device.info().type;
    return type != DeviceType::cpu && type != DeviceType::software;
}

PagerCounters since(const PagerCounters& before, PagerCounters now) {
    now.tier1 -= before.tier1;
    now.tier2 -= before.tier2;
    now.tier3 -= before.tier3;
    now.bytes_read -= before.bytes_read;
    now.bytes_copied -= before.bytes_copied;
    now.bytes_written -= before.bytes_written;
    now.evictions -= before.evictions;
    now.host_computed -= before.host_computed;
    now.waves -= before.waves;
    now.read_waits -= before.read_waits;
    now.read_wait_seconds -= before.read_wait_seconds;
    now.prefetched -= before.prefetched;
    now.prefetch_used -= before.prefetch_used;
    now.prefetch_late -= before.prefetch_late;
    return now;
}

}  // namespace

struct Stack::State {
    Engine* engine;
    bool residual = false;
    std::vector<std::string> warnings;
    std::optional<PagingOptions> options = {};
    uint64_t generation = engine->generation();  // of the engine's device that it is on
    std::unique_ptr<Pager> pager = {};           // outlives the layers, whose tables it has set
    std::unique_ptr<HostExperts> host = {};      // null: the device computes everything
    std::vector<Layer> layers = {};
    std::unique_ptr<Runner> runner = {};

    Result<void> open(const formats::ModelSource& source);
    Result<void> start();
    Result<void> makePager();
    Result<void> reload();
    Result<MemorySpeeds> measure() const;
    PagerOptions pagerOptions(const PageStore& store, const MemorySpeeds& speeds) const;
    PagingReport report(const PagerCounters& before, double seconds_before) const;
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
    std::lock_guard lock(state_->engine->mutex());
    state_.reset();
}

bool Stack::residual() const { return state_->residual; }
std::vector<Layer>& Stack::layers() { return state_->layers; }
const std::vector<Layer>& Stack::layers() const { return state_->layers; }
const std::vector<std::string>& Stack::warnings() const { return state_->warnings; }
const Pager* Stack::pager() const { return state_->pager.get(); }

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
    std::lock_guard lock(engine.mutex());
    auto state = std::unique_ptr<State>(new State{&engine, source.stack, source.warnings});
    VKMOE_CHECK(state->open(source));
    return Stack(std::move(state));
}

Result<Stack> Stack::create(Engine& engine, const formats::ModelSource& source, const PagingOptions& paging) {
    std::lock_guard lock(engine.mutex());
    auto state = std::unique_ptr<State>(new State{&engine, source.stack, source.warnings, paging});
    VKMOE_CHECK(state->open(source));
    return Stack(std::move(state));
}

Result<void> Stack::State::open(const formats::ModelSource& source) {
    for (const auto& layer : source.layers) {
        VKMOE_TRY(weights, options ? Weights::loadUnpaged(*engine, layer) : Weights::load(*engine, layer));
        VKMOE_TRY(made, Layer::create(*engine, std::move(weights), layer));
        layers.push_back(std::move(made));
    }
    return start();
}

// Runner and pager for the layers as they are now.
Result<void> Stack::State::start() {
    if (options) VKMOE_CHECK(makePager());
    std::vector<LayerState*> states;
    for (Layer& layer : layers) states.push_back(&layer.state());
    runner = std::make_unique<Runner>(*engine, std::move(states), residual);
    if (pager) runner->usePager(*pager, 0);
    for (size_t i = 0; pager && i < layers.size(); ++i) layers[i].usePager(*pager, uint32_t(i));
    generation = engine->generation();
    return {};
}

// How fast a GPU reads, where its tiers or the host's share depend on it; nothing measured: zeros.
Result<MemorySpeeds> Stack::State::measure() const {
    Device& device = engine->device();
    if (device.info().type == DeviceType::cpu) return MemorySpeeds{};
    if (options->speeds) return *options->speeds;
    bool tiers = options->placement == Placement::automatic && options->policy == Policy::automatic;
    bool share = options->placement != Placement::flat && options->host_compute == HostCompute::automatic;
    if (!isGpu(device) || !(tiers || share)) return MemorySpeeds{};
    auto speeds = probeBandwidth(device, kernels().peak_read);
    if (!speeds && speeds.error().code == ErrorCode::out_of_memory) return MemorySpeeds{};
    return speeds;
}

PagerOptions Stack::State::pagerOptions(const PageStore& store, const MemorySpeeds& speeds) const {
    uint64_t page = 0, all = 0;
    for (PageId p = 0; p < store.pages(); ++p) page = std::max(page, store.pageBytes(p));
    all = page * store.pages();
    const Ledger& ledger = engine->device().ledger();
    uint64_t left = ledger.budget() - std::min(ledger.used(), ledger.budget());
    PagerOptions chosen{.device_budget = options->device_budget.value_or(std::min(all, left / 5 * 4)),
                        .host_budget = options->host_budget.value_or(std::min(all, hostMemory() / 2)),
                        .policy = options->policy,
                        .placement = options->placement,
                        .prefetch = options->prefetch,
                        .readers = options->readers};
    if (options->placement == Placement::automatic && options->policy != Policy::automatic)
        chosen.placement = Placement::tiered;
    if (chosen.placement == Placement::automatic && speeds.device_read > 0)
        chosen.placement = speeds.host_read >= kAsFast * speeds.device_read ? Placement::flat : Placement::tiered;
    bool measured = chosen.placement == Placement::tiered && speeds.device_read > 0;
    chosen.host_reads =
        engine->device().info().type != DeviceType::cpu &&
        (options->host_compute == HostCompute::always || (options->host_compute == HostCompute::automatic && measured));
    return chosen;
}

Result<void> Stack::State::makePager() {
    std::vector<PageGroup> groups;
    std::vector<formats::LayerSource> sources;
    for (Layer& layer : layers) {
        groups.push_back({layer.description().experts, &layer.state().weights.table});
        sources.push_back(layer.source());
    }
    VKMOE_TRY(store, ExpertStore::create(std::move(sources)));
    VKMOE_TRY(speeds, measure());
    PagerOptions settings = pagerOptions(*store, speeds);
    VKMOE_TRY(made, Pager::create(engine->device(), std::move(store), std::move(groups), settings));
    pager = std::move(made);
    VKMOE_CHECK(pager->preload(options->progress));
    if (settings.host_reads && !pager->allResident())
        host = std::make_unique<HostExperts>(engine->device(), options->host_compute, speeds);
    for (Layer& layer : layers) layer.state().host = host.get();
    return {};
}

// The same stack on the device that the engine has now.
Result<void> Stack::State::reload() {
    runner.reset();
    host.reset();
    pager.reset();
    for (Layer& layer : layers) VKMOE_CHECK(layer.reload());
    return start();
}

// ---- forward --------------------------------------------------------------------------------------------------------

PagingReport Stack::State::report(const PagerCounters& before, double seconds_before) const {
    PagingReport report{.counters = since(before, pager->counters()),
                        .policy = pager->residency().decides(),
                        .all_resident = pager->allResident(),
                        .pages = pager->store().pages(),
                        .page_bytes = pager->slotBytes(),
                        .device_slots = pager->slots(0),
                        .host_slots = pager->slots(1),
                        .read_seconds = pager->reading().seconds - seconds_before};
    for (PageId page = 0; page < report.pages; ++page) report.tiers.push_back(int8_t(pager->tierOf(page)));
    return report;
}

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
    std::lock_guard lock(s.engine->mutex());
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
    PagerCounters pages_before = pager ? pager->counters() : PagerCounters{};
    double reading_before = pager ? pager->reading().seconds : 0;
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
    if (!pager) return ran;
    ran->paging = report(pages_before, reading_before);
    ran->paging->visits = std::move(visits);
    return ran;
}

}  // namespace v1
}  // namespace vkmoe
