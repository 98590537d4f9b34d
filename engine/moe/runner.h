// Runner: a call's tokens through one layer or several, batch by batch.
//
// A batch goes through all layers on the device. While every page is in memory it is recorded and submitted whole, many
// batches are in flight, and the host waits only to hand out results. With pages in files each layer's routes are read
// back (one wait a layer), and its experts run in the waves that the pager makes.
#pragma once

#include <array>
#include <map>
#include <vector>

#include "engine/moe/expert_turn.h"
#include "engine/moe/introspection.h"
#include "engine/moe/layer_state.h"

namespace vkmoe {
inline namespace v1 {

// Tokens and layers of one call.
struct RunnerCall {
    std::span<const float> x;  // [tokens, model_dim]
    const ForwardOptions& options;
    std::span<const Routes* const> forced = {};  // none, or one a layer (null: the router decides)
};

class Runner {
public:
    // `residual`: x is added at each layer.
    Runner(Engine& engine, std::vector<LayerState*> layers, bool residual);

    // The experts' pages are the pager's: group first_group + i holds those of layer i.
    void usePager(Pager& pager, uint32_t first_group) {
        pager_ = &pager;
        first_group_ = first_group;
    }
    const Pager* pager() const { return pager_; }

    // One result a layer, in order; the last one's `output` is the call's. Statistics count when all has succeeded.
    Result<std::vector<ForwardResult>> run(const RunnerCall& call);

    // All logits of the first layer, [tokens, experts]: what fixed_budget is decided by.
    Result<std::vector<float>> logits(const RunnerCall& call);

    // Visits of pages are added to it, if it is not null.
    std::vector<Visit>* trace = nullptr;

private:
    // A layer in a call.
    struct Station {
        LayerState* layer;
        ForwardPass* pass;
        const Routes* forced;
        uint32_t width, capacity;  // experts a token may go to; tokens an expert accepts (capacity dispatch)
        double operations;         // of a token
        const Workspace* workspace = nullptr;
        bool guessed = false;                     // what the next layer's router would choose is on its way to the host
        uint64_t upload_at = 0, download_at = 0;  // in an area
    };
    // Host memory of a batch in flight.
    struct Area {
        Buffer upload, download;
        uint64_t value = 0, first = 0;
        uint32_t tokens = 0;
        std::vector<std::array<uint32_t, 4>> host_status;  // [stations] what the host's share counted
    };
    struct Batch;
    struct Sums;

    Result<void> prepare(const RunnerCall& call);
    Result<void> ensureMemory(uint64_t tokens);
    uint64_t layOut(uint32_t capacity);
    Result<void> makeWorkspaces();
    Result<void> ensureAreas(size_t count);
    void fill(Area& area, const RunnerCall& call, uint64_t first, uint32_t tokens) const;
    HostArea hostArea(const Station& station, const Area& area) const;
    ForwardPass::Batch batchOf(const Station& station, const Area& area, const HostArea& host) const;
    Result<void> submit(Commands& commands, Area& area);
    Result<void> runWhole(Area& area);
    Result<void> runInTurns(Area& area);
    Result<void> runExperts(Commands& commands, size_t layer, Area& area);
    Commands withInput(const Area& area) const;
    void head(Commands& commands, size_t layer, const Area& area);
    void guess(Commands& commands, size_t next, const Area& area);
    void tail(Commands& commands, size_t layer, const Area& area);
    ExpertTurn turnOf(size_t layer, const Area& area) const;
    std::vector<PageId> pagesOf(size_t layer, std::span<const uint32_t> experts) const;
    std::vector<PageId> used(size_t layer, const Area& area) const;
    void readAhead(size_t next, const Area& area);
    Result<void> check(const Area& area) const;
    void collect(const Area& area, std::vector<ForwardResult>& results, std::vector<IntrospectionSums>& sums);
    void adapt(double seconds, size_t submits, uint32_t tokens);
    template <class Body>
    Result<void> eachInterval(const RunnerCall& call, const Body& body);

    Engine* engine_;
    std::vector<LayerState*> layers_;
    bool residual_;
    Pager* pager_ = nullptr;
    uint32_t first_group_ = 0;
    // Of a call:
    std::vector<Station> stations_;
    bool training_ = false;
    // Kept between calls:
    std::map<std::vector<uint64_t>, Workspace> workspaces_;  // by what their layout depends on
    std::vector<Area> areas_;
    uint64_t upload_bytes_ = 0, download_bytes_ = 0;  // of an area
    uint32_t capacity_ = 0;                           // tokens that workspaces and areas hold
    bool largest_ = false;                            // memory allows no more tokens at a time
    bool watched_;                                    // the device has a watchdog
    uint32_t batch_;                                  // tokens of a batch, corrected by measured time
};

}  // namespace v1
}  // namespace vkmoe
