// The runner's memory: workspaces for the layers, areas on the host for batches in flight.
#include <fmt/format.h>

#include <algorithm>

#include "engine/moe/runner.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kWorkspaceBytes = uint64_t{512} << 20;
constexpr uint64_t kAreaBytes = uint64_t{64} << 20;  // of all batches in flight
constexpr size_t kMostInFlight = 256;

// What a workspace's layout depends on.
std::vector<uint64_t> layoutKey(const Description& d, uint32_t width) {
    return {d.model_dim, d.hidden_dim, d.shared_dim, d.experts, d.top_k, uint64_t(d.dispatch), width};
}

}  // namespace

// Places everything for batches of `capacity` tokens; returns the bytes of all, with one batch in flight.
uint64_t Runner::layOut(uint32_t capacity) {
    uint64_t row = uint64_t{layers_.front()->description().model_dim} * 4, bytes = 0;
    upload_bytes_ = download_bytes_ = (capacity * row + 255) / 256 * 256;
    std::vector<std::vector<uint64_t>> seen;
    for (Station& station : stations_) {
        const Description& d = station.layer->description();
        Workspace w = Workspace::layout(d, station.width, capacity);
        station.upload_at = upload_bytes_;
        station.download_at = download_bytes_;
        upload_bytes_ += station.forced ? w.upload_bytes : 0;
        download_bytes_ += w.back.bytes;
        auto key = layoutKey(d, station.width);
        if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
        seen.push_back(key);
        bytes += Workspace::bytesFor(d, station.width, capacity);
    }
    return bytes + upload_bytes_ + download_bytes_;
}

Result<void> Runner::makeWorkspaces() {
    for (Station& station : stations_) {
        const Description& d = station.layer->description();
        auto key = layoutKey(d, station.width);
        auto found = workspaces_.find(key);
        if (found == workspaces_.end()) {
            VKMOE_TRY(made, Workspace::create(engine_->device(), d, station.width, capacity_));
            found = workspaces_.emplace(std::move(key), std::move(made)).first;
        }
        station.workspace = &found->second;
    }
    return {};
}

// Workspaces and one area for this many tokens, or for as many at a time as memory allows.
Result<void> Runner::ensureMemory(uint64_t tokens) {
    auto wanted = uint32_t(std::min<uint64_t>(tokens, batch_));
    bool enough = capacity_ >= wanted || (largest_ && capacity_ > 0);
    for (const Station& station : stations_)
        enough = enough && workspaces_.count(layoutKey(station.layer->description(), station.width)) != 0;
    if (!enough) {
        workspaces_.clear();
        areas_.clear();
        capacity_ = 0;
        Ledger& ledger = engine_->device().ledger();
        uint64_t left = ledger.left();
        uint64_t allowed = std::min({left / 10 * 9, engine_->device().info().limits.max_allocation, kWorkspaceBytes});
        uint32_t low = 0, high = wanted;
        for (const Station& station : stations_)
            high = std::min(high, Workspace::largestCapacity(station.layer->description(), station.width));
        while (low < high) {
            uint32_t middle = low + (high - low + 1) / 2;
            if (layOut(middle) <= allowed)
                low = middle;
            else
                high = middle - 1;
        }
        if (low == 0)
            return Error{
                ErrorCode::out_of_memory,
                fmt::format("activations: not even one token fits in the {} bytes left of {}", left, ledger.budget())};
        largest_ = low < wanted;
        capacity_ = low;
    }
    layOut(capacity_);
    VKMOE_CHECK(makeWorkspaces());
    if (!areas_.empty() && (areas_[0].upload.size() < upload_bytes_ || areas_[0].download.size() < download_bytes_))
        areas_.clear();
    return ensureAreas(1);
}

// Host memory for so many batches in flight; fewer but one if memory is short.
Result<void> Runner::ensureAreas(size_t count) {
    size_t most = size_t(std::max<uint64_t>(kAreaBytes / (upload_bytes_ + download_bytes_), 1));
    while (areas_.size() < std::min({count, most, kMostInFlight})) {
        Device& device = engine_->device();
        auto upload = device.allocate(upload_bytes_, Memory::upload, "input");
        if (!upload) return areas_.empty() ? Result<void>(std::move(upload).error()) : Result<void>();
        auto download = device.allocate(download_bytes_, Memory::download, "output");
        if (!download) return areas_.empty() ? Result<void>(std::move(download).error()) : Result<void>();
        areas_.push_back({std::move(upload).value(), std::move(download).value()});
    }
    return {};
}

}  // namespace v1
}  // namespace vkmoe
