#include "engine/moe/paged_experts.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/moe/expert_store.h"
#include "host/host_memory.h"

namespace vkmoe {
inline namespace v1 {
namespace {

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

// How fast a GPU reads, where its tiers or the host's share depend on it; nothing measured: zeros.
Result<MemorySpeeds> measure(Engine& engine, const PagingOptions& options) {
    Device& device = engine.device();
    if (options.speeds) return *options.speeds;
    bool tiers = options.placement == Placement::automatic && options.policy == Policy::automatic;
    bool share = options.placement != Placement::flat && options.host_compute == HostCompute::automatic;
    bool queues = options.placement != Placement::flat && device.transferQueue();
    if (!isGpu(device) || !(tiers || share || queues)) return MemorySpeeds{};
    auto speeds = probeBandwidth(device, kernels().peak_read);
    if (!speeds && speeds.error().code == ErrorCode::out_of_memory) return MemorySpeeds{};
    return speeds;
}

PagerOptions settings(Engine& engine, const PagingOptions& options, const PageStore& store,
                      const MemorySpeeds& speeds) {
    uint64_t page = 0, all = 0;
    for (PageId p = 0; p < store.pages(); ++p) page = std::max(page, store.pageBytes(p));
    all = page * store.pages();
    PagerOptions chosen{.device_budget = options.device_budget.value_or(all),
                        .host_budget = options.host_budget.value_or(std::min(all, hostMemory() / 2)),
                        .policy = options.policy,
                        .placement = options.placement,
                        .prefetch = options.prefetch,
                        .readers = options.readers};
    if (options.placement == Placement::automatic && options.policy != Policy::automatic)
        chosen.placement = Placement::tiered;
    const bool cpu = engine.device().info().type == DeviceType::cpu;  // reads all memory alike
    if (chosen.placement == Placement::automatic && speeds.device_read > 0 && !cpu)
        chosen.placement = speeds.host_read >= kAsFast * speeds.device_read ? Placement::flat : Placement::tiered;
    bool measured = chosen.placement == Placement::tiered && speeds.device_read > 0;
    chosen.host_reads = !cpu && (options.host_compute == HostCompute::always ||
                                 (options.host_compute == HostCompute::automatic && measured));
    chosen.transfer_queue = speeds.transfer_queue;
    if (measured && speeds.host_read > 0 && speeds.copy > 0)
        chosen.gain = (1 / speeds.host_read - 1 / speeds.device_read) * speeds.copy;
    return chosen;
}

Result<void> pin(Pager& pager, const PagingOptions& options) {
    if (options.pinned.empty()) return {};
    if (options.policy != Policy::fixed)
        return Error{ErrorCode::bad_input, fmt::format("experts are pinned, but the policy is {}: {} pins experts",
                                                       name(options.policy), name(Policy::fixed))};
    const PageGroups& groups = pager.groups();
    std::vector<PageId> pages;
    for (auto [layer, expert] : options.pinned) {
        if (layer >= groups.count() || expert >= groups.size(layer))
            return Error{ErrorCode::bad_input,
                         fmt::format("expert {} of layer {} is pinned, but there are {}", expert, layer,
                                     layer >= groups.count() ? fmt::format("{} layers", groups.count())
                                                             : fmt::format("{} experts in it", groups.size(layer)))};
        pages.push_back(groups.first(layer) + expert);
    }
    pager.pin(pages);
    return {};
}

}  // namespace

Result<std::unique_ptr<PagedExperts>> PagedExperts::open(Engine& engine, std::vector<formats::LayerSource> layers,
                                                         std::span<const Buffer* const> tables,
                                                         const PagingOptions& options) {
    std::vector<PageGroup> groups;
    for (size_t i = 0; i < layers.size(); ++i) groups.push_back({layers[i].description.experts, tables[i]});
    VKMOE_TRY(store, ExpertStore::create(std::move(layers)));
    VKMOE_TRY(speeds, measure(engine, options));
    PagerOptions chosen = settings(engine, options, *store, speeds);
    std::unique_ptr<PagedExperts> paged(new PagedExperts);
    VKMOE_TRY(pager, Pager::create(engine.device(), std::move(store), std::move(groups), chosen));
    paged->pager_ = std::move(pager);
    VKMOE_CHECK(pin(*paged->pager_, options));
    VKMOE_CHECK(paged->pager_->preload(options.progress));
    paged->opening_bytes_ = paged->pager_->counters().bytes_read;
    if (chosen.host_reads && !paged->pager_->allResident())
        paged->host_ = std::make_unique<HostExperts>(engine.device(), options.host_compute, speeds);
    paged->startReport();
    return paged;
}

void PagedExperts::startReport() {
    before_ = pager_->counters();
    seconds_before_ = pager_->reading().seconds;
}

PagingReport reportOf(const Pager& pager) {
    PagingReport report{.counters = pager.counters(),
                        .policy = pager.residency().decides(),
                        .all_resident = pager.allResident(),
                        .pages = pager.store().pages(),
                        .page_bytes = pager.slotBytes(),
                        .device_slots = pager.slots(0),
                        .host_slots = pager.slots(1),
                        .transfer_queue = pager.usesTransferQueue(),
                        .read_seconds = pager.reading().seconds};
    for (PageId page = 0; page < report.pages; ++page) report.tiers.push_back(int8_t(pager.tierOf(page)));
    return report;
}

PagingReport PagedExperts::report() const {
    PagingReport report = reportOf(*pager_);
    report.counters = since(before_, report.counters);
    report.opening_bytes = opening_bytes_;
    report.read_seconds -= seconds_before_;
    return report;
}

}  // namespace v1
}  // namespace vkmoe
