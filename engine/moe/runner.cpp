#include "engine/moe/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/moe/host_experts.h"
#include "host/clock.h"
#include "host/views.h"
#include "shaders/exact_math.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kLargestBatch = 16384;  // tokens of a batch
constexpr double kFirstSubmit = 2e9;       // floating-point operations, before anything was measured
constexpr double kFirstCpuSubmit = 4e11;   // ... on the CPU, which has no watchdog: many rows an expert are faster
constexpr double kFirstSoftSubmit = 1e10;  // ... on a software driver, which has none either
constexpr double kSmallSubmit = 1e8;       // ... that no device is too slow for: no batch is cut below this
constexpr double kLongestSubmit = 0.1;     // seconds: watchdogs stay asleep
constexpr double kLongestBatch = 2;        // ... without a watchdog: progress is told, a call can be cancelled

double operationsOf(const Description& d) {
    double expert = (d.gated() ? 6.0 : 4.0) * d.model_dim;
    return expert * d.hidden_dim * d.top_k + expert * d.shared_dim +
           2.0 * d.experts * (double(d.model_dim) + d.experts);
}

uint32_t tokensFor(double operations, double of_a_token, uint32_t most) {
    return uint32_t(std::clamp(operations / of_a_token, 1.0, double(most)));
}

// Tokens an expert accepts of a call (entrenar's formula, in f32).
uint32_t capacityOf(const Description& d, uint64_t tokens) {
    float capacity = std::ceil(d.capacity_factor * float(tokens * d.top_k) / float(d.experts));
    return capacity < 1 ? 1 : uint32_t(std::min(capacity, 0x1p30f));
}

}  // namespace

Runner::Runner(Engine& engine, std::vector<LayerState*> layers, bool residual)
    : engine_(&engine), layers_(std::move(layers)), residual_(residual) {
    DeviceType type = engine.device().info().type;
    watched_ = type != DeviceType::cpu && type != DeviceType::software;
    double all = 0, largest = 0;
    for (const LayerState* layer : layers_) {
        all += operationsOf(layer->description());
        largest = std::max(largest, operationsOf(layer->description()));
    }
    batch_ = watched_ ? tokensFor(kFirstSubmit, largest, 1024)
                      : tokensFor(type == DeviceType::cpu ? kFirstCpuSubmit : kFirstSoftSubmit, all, kLargestBatch);
}

// The call's layers, and their kernels.
Result<void> Runner::prepare(const RunnerCall& call) {
    if (pager_) VKMOE_CHECK(pager_->begin());
    stations_.clear();
    training_ = call.options.training;
    uint64_t tokens = call.x.size() / layers_.front()->description().model_dim;
    for (size_t i = 0; i < layers_.size(); ++i) {
        const Description& d = layers_[i]->description();
        VKMOE_TRY(pass, layers_[i]->passFor(call.options.precision, call.options.introspection));
        if (residual_) VKMOE_CHECK(pass->prepareSum(*engine_));
        if (pager_ && pager_->prefetches() && i > 0) VKMOE_CHECK(pass->prepareGuess(*engine_));
        const Routes* forced = call.forced.empty() ? nullptr : call.forced[i];
        stations_.push_back(
            {layers_[i], pass, forced, forced ? forced->top_k : d.top_k, capacityOf(d, tokens), operationsOf(d)});
    }
    return {};
}

// ---- a batch --------------------------------------------------------------------------------------------------------

HostArea Runner::hostArea(const Station& station, const Area& area) const {
    return {&area.upload, &area.download, station.upload_at, station.download_at};
}

ForwardPass::Batch Runner::batchOf(const Station& s, const Area& area, const HostArea& host) const {
    return {.first = area.first,
            .tokens = area.tokens,
            .forced = s.forced ? &host : nullptr,
            .training = training_,
            .layer = s.layer->number,
            .capacity = s.capacity,
            .taken = s.layer->taken ? &s.layer->taken : nullptr};
}

void Runner::fill(Area& area, const RunnerCall& call, uint64_t first, uint32_t tokens) const {
    uint32_t D = layers_.front()->description().model_dim;
    area.first = first;
    area.tokens = tokens;
    area.host_status.assign(stations_.size(), {});
    std::byte* upload = area.upload.mapped().data();
    auto* x = reinterpret_cast<float*>(upload);
    std::memcpy(x, call.x.data() + first * D, size_t{tokens} * D * 4);
    for (size_t i = 0; residual_ && i < size_t{tokens} * D; ++i) x[i] = state_rule(x[i]);  // it enters a sum
    for (const Station& s : stations_) {
        if (!s.forced) continue;
        size_t slots = size_t{tokens} * s.width;
        std::byte* to = upload + s.upload_at;
        std::memcpy(to + s.workspace->forced_selected, s.forced->experts.data() + first * s.width, slots * 4);
        std::memcpy(to + s.workspace->forced_gates, s.forced->gates.data() + first * s.width, slots * 4);
    }
}

// The batch's tokens, to where the first layer reads them.
Commands Runner::withInput(const Area& area) const {
    Commands commands;
    const Workspace& first = *stations_.front().workspace;
    commands.copy(area.upload, 0, first.memory, first.raw,
                  uint64_t{area.tokens} * layers_.front()->description().model_dim * 4);
    commands.barrier();
    return commands;
}

// What comes before a layer's experts; its routes, and who the next layer's router would choose, go to the host at once
// where pages are to be read.
void Runner::head(Commands& commands, size_t layer, const Area& area) {
    const Station& s = stations_[layer];
    const Workspace& w = *s.workspace;
    HostArea host = hostArea(s, area);
    if (s.layer->taken && area.first == 0) commands.fill(s.layer->taken, 0, s.layer->taken.size(), 0);
    s.pass->recordHead(commands, w, batchOf(s, area, host));
    if (!pager_ || pager_->allResident()) return;
    commands.copy(w.memory, w.selected, area.download, s.download_at + w.back.selected,
                  uint64_t{area.tokens} * s.width * 4);
    if (s.layer->host) s.layer->host->recordInputs(commands, *pager_, turnOf(layer, area));
    if (layer + 1 < stations_.size()) guess(commands, layer + 1, area);
}

// Who the router of layer `next` would choose, where that is of use and fits the places of the layer before it.
void Runner::guess(Commands& commands, size_t next, const Area& area) {
    Station& s = stations_[next - 1];
    const ForwardPass& pass = *stations_[next].pass;
    s.guessed = pager_->readsAhead() && pass.guessFits(s.layer->description(), s.width);
    if (s.guessed)
        pass.recordGuess(commands, *s.workspace, area.tokens, area.download, s.download_at + s.workspace->back.ahead);
}

// What comes after a layer's experts, as far as the next layer's input or the call's result.
void Runner::tail(Commands& commands, size_t layer, const Area& area) {
    const Station& s = stations_[layer];
    const Workspace& w = *s.workspace;
    uint64_t bytes = uint64_t{area.tokens} * s.layer->description().model_dim * 4;
    s.pass->recordTail(commands, w, area.tokens);
    if (residual_) s.pass->recordSum(commands, w, area.tokens);
    s.pass->recordFacts(commands, w, area.tokens, hostArea(s, area));
    if (layer + 1 == stations_.size())
        commands.copy(w.memory, w.out, area.download, 0, bytes);
    else
        commands.copy(w.memory, w.out, stations_[layer + 1].workspace->memory, stations_[layer + 1].workspace->raw,
                      bytes);
    commands.barrier();
}

Result<void> Runner::submit(Commands& commands, Area& area) {
    VKMOE_TRY(value, pager_ ? pager_->submit(commands) : engine_->device().submit(commands));
    area.value = value;
    commands = {};
    return {};
}

// Recorded whole, in submits that no watchdog minds.
Result<void> Runner::runWhole(Area& area) {
    Commands commands = withInput(area);
    if (pager_) VKMOE_CHECK(pager_->rebalance(commands));
    double largest = 0, recorded = 0;
    for (const Station& s : stations_) largest = std::max(largest, s.operations);
    for (size_t i = 0; i < stations_.size(); ++i) {
        head(commands, i, area);
        stations_[i].pass->recordExperts(commands, *stations_[i].workspace, area.tokens);
        tail(commands, i, area);
        recorded += area.tokens * stations_[i].operations;
        if (!watched_ || i + 1 == stations_.size() || recorded + area.tokens * largest <= batch_ * largest) continue;
        VKMOE_CHECK(submit(commands, area));
        recorded = 0;
    }
    return submit(commands, area);
}

// ---- turns ----------------------------------------------------------------------------------------------------------

ExpertTurn Runner::turnOf(size_t layer, const Area& area) const {
    const Station& s = stations_[layer];
    return {s.pass, s.workspace, area.tokens, pager_->groups().first(first_group_ + uint32_t(layer))};
}

std::vector<PageId> Runner::pagesOf(size_t layer, std::span<const uint32_t> experts) const {
    uint32_t group = first_group_ + uint32_t(layer);
    return vkmoe::pagesOf(pager_->groups().first(group), layers_[layer]->description().experts, experts);
}

std::vector<PageId> Runner::used(size_t layer, const Area& area) const {
    const Station& s = stations_[layer];
    return pagesOf(layer, view<uint32_t>(area.download, s.download_at + s.workspace->back.selected,
                                         size_t{area.tokens} * s.width));
}

void Runner::readAhead(size_t next, const Area& area) {
    const Station& s = stations_[next - 1];
    uint32_t top_k = layers_[next]->description().top_k;
    pager_->readAhead(pagesOf(
        next, view<uint32_t>(area.download, s.download_at + s.workspace->back.ahead, size_t{area.tokens} * top_k)));
}

Result<void> Runner::runExperts(Commands& commands, size_t layer, Area& area) {
    HostExperts* host = stations_[layer].layer->host;
    auto pages = used(layer, area);
    if (trace) addVisit(*trace, {first_group_ + uint32_t(layer), pages});
    VKMOE_CHECK(vkmoe::runExperts(commands, *pager_, host, turnOf(layer, area), pages));
    if (host) area.host_status[layer] = host->takeStatus();
    return {};
}

Result<void> Runner::runInTurns(Area& area) {
    Commands commands = withInput(area);
    head(commands, 0, area);
    for (size_t i = 0; i < stations_.size(); ++i) {
        VKMOE_CHECK(submit(commands, area));
        VKMOE_CHECK(engine_->device().wait(area.value));  // the layer's routes
        VKMOE_CHECK(runExperts(commands, i, area));
        tail(commands, i, area);
        if (i + 1 == stations_.size()) break;
        head(commands, i + 1, area);
        if (stations_[i].guessed)
            readAhead(i + 1, area);
        else
            pager_->readLikely(first_group_ + uint32_t(i) + 1);
    }
    const bool is_all = stations_.size() == pager_->groups().count();
    if (is_all) pager_->readLikely(0);  // of the next batch
    return submit(commands, area);
}

// ---- a call ---------------------------------------------------------------------------------------------------------

// The first thing that went wrong, by layer; a sentence that is not about the call's input names the layer of a stack.
Result<void> Runner::check(const Area& area) const {
    for (size_t i = 0; i < stations_.size(); ++i) {
        const Station& s = stations_[i];
        auto counted =
            view<uint32_t>(area.download, s.download_at + s.workspace->back.status, 2 * Workspace::kStatusRows);
        std::vector<uint32_t> words(counted.begin(), counted.end());
        ForwardPass::mergeStatus(words, area.host_status[i]);
        auto slots = [&]() -> Result<SlotTable> {
            auto selected = view<uint32_t>(area.download, s.download_at + s.workspace->back.selected,
                                           size_t{area.tokens} * s.width);
            return SlotTable::of(selected, s.width, s.layer->description().experts);
        };
        auto clean = s.pass->check(words.data(), s.width, area.first, slots);
        if (clean) continue;
        Error error = std::move(clean).error();
        bool callers = i == 0 && error.detail.starts_with("the input");
        if (residual_ && !callers) error.detail = fmt::format("layers.{}: {}", i, error.detail);
        return error;
    }
    return {};
}

void Runner::collect(const Area& area, std::vector<ForwardResult>& results, std::vector<IntrospectionSums>& sums) {
    uint32_t D = layers_.front()->description().model_dim;
    auto out = view<float>(area.download, 0, size_t{area.tokens} * D);
    std::copy(out.begin(), out.end(), results.back().output.begin() + ptrdiff_t(area.first * D));
    for (size_t i = 0; i < stations_.size(); ++i) {
        const Station& s = stations_[i];
        size_t slots = size_t{area.tokens} * s.width;
        const Workspace::Download& back = s.workspace->back;
        auto words = [&](uint64_t at, size_t count) {
            return view<uint32_t>(area.download, s.download_at + at, count);
        };
        auto floats = [&](uint64_t at, size_t count) { return view<float>(area.download, s.download_at + at, count); };
        auto selected = words(back.selected, slots);
        auto gates = floats(back.gates, slots);
        results[i].routes.experts.insert(results[i].routes.experts.end(), selected.begin(), selected.end());
        results[i].routes.gates.insert(results[i].routes.gates.end(), gates.begin(), gates.end());
        if (pager_ && pager_->allResident()) {
            auto pages = used(i, area);
            pager_->note(first_group_ + uint32_t(i), pages);
            if (trace) addVisit(*trace, {first_group_ + uint32_t(i), std::move(pages)});
        }
        if (sums.empty()) continue;
        sums[i].add({area.tokens, s.width, selected, gates,
                     floats(back.probabilities, size_t{area.tokens} * s.layer->description().experts),
                     words(back.slot_of, slots), floats(back.energy, slots), words(back.scale, slots),
                     words(back.quiet, slots)});
    }
}

void Runner::adapt(double seconds, size_t submits, uint32_t tokens) {
    double took = watched_ ? seconds / double(submits) : seconds, longest = watched_ ? kLongestSubmit : kLongestBatch;
    double operations = 0;
    for (const Station& s : stations_)
        operations = watched_ ? std::max(operations, s.operations) : operations + s.operations;
    if (took > longest) batch_ = std::max(tokens / 2, tokensFor(kSmallSubmit, operations, 256));
    if (took < longest / 4 && tokens == batch_) batch_ = std::min(batch_ * 2, kLargestBatch);
}

// Batches, ever more of them in flight; body(first, count) is told how many areas have arrived.
template <class Body>
Result<void> Runner::eachInterval(const RunnerCall& call, const Body& body) {
    Device& device = engine_->device();
    uint64_t all = call.x.size() / layers_.front()->description().model_dim, first = 0;
    uint32_t max_batch = call.options.max_batch;
    for (size_t flight = 1; first < all; flight *= 2) {
        VKMOE_CHECK(ensureMemory(max_batch != 0 ? std::min<uint64_t>(all - first, max_batch) : all - first));
        uint32_t most = std::min(capacity_, max_batch != 0 ? std::min(max_batch, batch_) : batch_), longest = 0;
        VKMOE_CHECK(ensureAreas(std::min<uint64_t>(flight, (all - first + most - 1) / most)));
        uint64_t submits = device.counters().submits;
        const double start = secondsNow();
        size_t count = 0;
        for (; count < std::min(flight, areas_.size()) && first < all; ++count) {
            fill(areas_[count], call, first, uint32_t(std::min<uint64_t>(all - first, most)));
            VKMOE_CHECK(body.run(areas_[count]));
            longest = std::max(longest, areas_[count].tokens);
            first += areas_[count].tokens;
        }
        VKMOE_CHECK(device.wait(areas_[count - 1].value));
        double seconds = (secondsNow() - start) / double(count);
        adapt(seconds, std::max<size_t>((device.counters().submits - submits) / count, 1), longest);
        for (size_t i = 0; i < count; ++i) VKMOE_CHECK(body.arrived(areas_[i]));
    }
    return {};
}

Result<std::vector<float>> Runner::logits(const RunnerCall& call) {
    VKMOE_CHECK(prepare(call));
    std::vector<float> logits;
    struct Body {
        Runner& runner;
        std::vector<float>& logits;
        Result<void> run(Area& area) const {
            const Station& s = runner.stations_.front();
            Commands commands = runner.withInput(area);
            HostArea host = runner.hostArea(s, area);
            s.pass->recordLogits(commands, *s.workspace, runner.batchOf(s, area, host), host);
            return runner.submit(commands, area);
        }
        Result<void> arrived(const Area& area) const {
            const Station& s = runner.stations_.front();
            VKMOE_CHECK(runner.check(area));
            auto some = view<float>(area.download, s.download_at + s.workspace->back.logits,
                                    size_t{area.tokens} * s.layer->description().experts);
            logits.insert(logits.end(), some.begin(), some.end());
            return {};
        }
    };
    VKMOE_CHECK(eachInterval(call, Body{*this, logits}));
    return logits;
}

Result<std::vector<ForwardResult>> Runner::run(const RunnerCall& call) {
    VKMOE_CHECK(prepare(call));
    DeviceCounters before = engine_->device().counters();
    const double start = secondsNow();
    std::vector<ForwardResult> results(layers_.size());
    std::vector<IntrospectionSums> sums;
    results.back().output.resize(call.x.size());
    for (size_t i = 0; i < layers_.size(); ++i) {
        results[i].tokens = call.x.size() / layers_.front()->description().model_dim;
        results[i].routes.top_k = stations_[i].width;
        if (call.options.introspection) sums.emplace_back(layers_[i]->description());
    }
    struct Body {
        Runner& runner;
        const RunnerCall& call;
        std::vector<ForwardResult>& results;
        std::vector<IntrospectionSums>& sums;
        Result<void> run(Area& area) const {
            return runner.pager_ && !runner.pager_->allResident() ? runner.runInTurns(area) : runner.runWhole(area);
        }
        Result<void> arrived(const Area& area) const {
            VKMOE_CHECK(runner.check(area));
            runner.collect(area, results, sums);
            uint64_t done = area.first + area.tokens, layers = runner.layers_.size(), all = results.front().tokens;
            if (call.options.progress && !call.options.progress(done * layers, all * layers))
                return Error{ErrorCode::unsupported, fmt::format("cancelled after {} of {} tokens", done, all)};
            return {};
        }
    };
    VKMOE_CHECK(eachInterval(call, Body{*this, call, results, sums}));
    for (size_t i = 0; i < sums.size(); ++i) {
        layers_[i]->pool.add(sums[i].pool(), results[i].tokens, layers_[i]->description().hidden_dim);
        results[i].introspection = sums[i].result();
        results[i].introspection.pool = layers_[i]->pool.introspect();
    }
    DeviceCounters after = engine_->device().counters();
    for (ForwardResult& result : results) {
        result.seconds = secondsNow() - start;
        result.submits = after.submits - before.submits;
        result.host_waits = after.waits - before.waits;
    }
    return results;
}

}  // namespace v1
}  // namespace vkmoe
