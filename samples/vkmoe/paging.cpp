#include "samples/vkmoe/paging.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "engine/formats/residency_trace.h"

namespace vkmoe::program {
namespace {

double share(uint64_t part, uint64_t whole) { return whole == 0 ? 0 : double(part) / double(whole); }

uint64_t residentPeak() {
    struct rusage usage = {};
    ::getrusage(RUSAGE_SELF, &usage);
    return uint64_t(usage.ru_maxrss) * 1024;
}

// Seconds of reading that nobody had to wait for, less those of pages that nobody used: an estimate, for reads run side
// by side.
double prefetchGain(const PagingReport& r) {
    const PagerCounters& c = r.counters;
    if (c.bytes_read == 0) return 0;
    double page = r.read_seconds * double(r.page_bytes) / double(c.bytes_read);
    double spared = double(c.prefetch_used) - double(c.prefetch_late);
    double vain =
        std::max(0.0, double(c.prefetched) - double(c.prefetch_used));  // some were read for an earlier report
    return (spared - vain) * page;
}

}  // namespace

PagingOptions PagingChoice::options() const {
    PagingOptions paging{.device_budget = device_budget, .host_budget = host_budget};
    if (auto named = policyNamed(policy)) paging.policy = *named;
    paging.prefetch = prefetch == "on";
    paging.host_compute = host == "on"    ? HostCompute::always
                          : host == "off" ? HostCompute::never
                                          : HostCompute::automatic;
    paging.trace = !trace.empty();
    for (const std::string& pin : pins) paging.pinned.push_back(parsePin(pin).value_or(ExpertId{}));
    return paging;
}

Result<std::optional<TrainingPaging>> PagingChoice::training() const {
    if (!wanted()) return std::optional<TrainingPaging>();
    std::error_code failure;
    const std::filesystem::path folder =
        scratch.empty() ? std::filesystem::temp_directory_path(failure) : std::filesystem::path(scratch);
    if (failure)
        return Error{ErrorCode::io, fmt::format("there is no folder for temporary files ({}); --scratch can name one",
                                                failure.message())};
    return std::optional(TrainingPaging{.device_budget = device_budget,
                                        .host_budget = host_budget,
                                        .policy = options().policy,
                                        .prefetch = prefetch == "on",
                                        .trace = !trace.empty(),
                                        .scratch = folder.string()});
}

std::optional<ExpertId> parsePin(const std::string& text) {
    ExpertId id;
    const char* end = text.data() + text.size();
    auto [colon, failure] = std::from_chars(text.data(), end, id.layer);
    if (failure != std::errc() || colon == end || *colon != ':') return std::nullopt;
    auto [rest, error] = std::from_chars(colon + 1, end, id.expert);
    if (error != std::errc() || rest != end) return std::nullopt;
    return id;
}

std::optional<uint64_t> parseBytes(const std::string& text) {
    double number = 0;
    auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || !(number >= 0)) return std::nullopt;
    std::string unit(rest, text.data() + text.size());
    unit.erase(0, unit.find_first_not_of(' ') == std::string::npos ? unit.size() : unit.find_first_not_of(' '));
    static constexpr std::pair<const char*, double> kUnits[] = {
        {"", 1},         {"B", 1},        {"K", 0x1p10}, {"KiB", 0x1p10}, {"M", 0x1p20}, {"MiB", 0x1p20}, {"G", 0x1p30},
        {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"KB", 1e3},   {"kB", 1e3},     {"MB", 1e6},   {"GB", 1e9},     {"TB", 1e12}};
    for (const auto& [name, factor] : kUnits)
        if (unit == name && number * factor < 0x1p63) return uint64_t(std::floor(number * factor));
    return std::nullopt;
}

Json pagesJson(const Stack& stack, const StackResult& result) {
    if (!result.paging) {  // every page is resident: uses are hits of tier 1
        uint64_t hits = 0, bytes = 0;
        for (size_t i = 0; i < result.layers.size(); ++i) {
            const auto& experts = result.layers[i].introspection.experts;
            hits += uint64_t(std::count_if(experts.begin(), experts.end(), [](const auto& e) { return e.tokens > 0; }));
            bytes += stack.layers()[i].pageBytes() * stack.layers()[i].description().experts;
        }
        return {{"hits", {{"tier1", hits}, {"tier2", 0}, {"tier3", 0}}},
                {"bytes", bytes},
                {"evictions", 0},
                {"cpu_computed", 0}};
    }
    return pagesJson(*result.paging);
}

Json pagesJson(const PagingReport& r) {
    const PagerCounters& c = r.counters;
    return {{"hits", {{"tier1", c.tier1}, {"tier2", c.tier2}, {"tier3", c.tier3}}},
            {"bytes", r.opening_bytes + c.bytes_read},
            {"bytes_copied", c.bytes_copied},
            {"bytes_written", c.bytes_written},
            {"transfer_queue", r.transfer_queue},
            {"evictions", c.evictions},
            {"cpu_computed", c.host_computed},
            {"stalls", c.read_waits},
            {"stall_seconds", c.read_wait_seconds},
            {"read_seconds", r.read_seconds},
            {"waves", c.waves},
            {"prefetch",
             {{"read", c.prefetched},
              {"used", c.prefetch_used},
              {"late", c.prefetch_late},
              {"accuracy", share(c.prefetch_used, c.prefetched)},
              {"gain_seconds", prefetchGain(r)}}},
            {"policy", name(r.policy)},
            {"all_resident", r.all_resident},
            {"pages", r.pages},
            {"page_bytes", r.page_bytes},
            {"slots", {{"tier1", r.device_slots}, {"tier2", r.host_slots}}}};
}

std::string pagingPicture(const PagingReport& r) {
    const PagerCounters& c = r.counters;
    uint64_t uses = c.tier1 + c.tier2 + c.tier3;
    std::string text = fmt::format(
        "experts: {} pages of {}, room for {} on the device and {} on the host; {} uses: {:.1f} % tier 1, {:.1f} % "
        "tier 2, "
        "{:.1f} % read from the file\n",
        r.pages, readableBytes(double(r.page_bytes)), r.device_slots, r.host_slots, uses, 100 * share(c.tier1, uses),
        100 * share(c.tier2, uses), 100 * share(c.tier3, uses));
    if (r.all_resident) return text;
    text += fmt::format("         {} read in {:.2f} s ({}/s), {} evictions, policy {}, {:.2f} s waited for reads\n",
                        readableBytes(double(c.bytes_read)), r.read_seconds,
                        readableBytes(r.read_seconds > 0 ? double(c.bytes_read) / r.read_seconds : 0), c.evictions,
                        name(r.policy), c.read_wait_seconds);
    if (c.host_computed > 0) text += fmt::format("         {} uses computed on the CPU\n", c.host_computed);
    if (c.prefetched > 0) {
        const double gain = prefetchGain(r);
        text += fmt::format("         {} read ahead, {} of them used ({:.0f} %): about {:.2f} s {}\n", c.prefetched,
                            c.prefetch_used, 100 * share(c.prefetch_used, c.prefetched), std::abs(gain),
                            gain < 0 ? "lost" : "gained");
    }
    return text;
}

Json memoryJson(Device& device) {
    return {{"device_peak_bytes", device.ledger().peak()},
            {"pinned_peak_bytes", device.ledger().pinnedPeak()},
            {"process_peak_bytes", residentPeak()}};
}

std::string memoryLine(Device& device) {
    return fmt::format("memory:  {} given out by the device at most, pages among them; the process took {}\n",
                       readableBytes(double(device.ledger().peak())), readableBytes(double(residentPeak())));
}

Result<void> writeTrace(const std::string& path, const Pager& pager, const PagingReport& r, double seconds) {
    Trace trace;
    double bytes = 0;
    for (uint32_t g = 0; g < pager.groups().count(); ++g) {
        trace.pages.push_back(pager.groups().size(g));
        trace.page_bytes.push_back(pager.store().pageBytes(pager.groups().first(g)));
        bytes += double(trace.pages.back()) * double(trace.page_bytes.back());
    }
    // As replays count: bytes of pages, whatever the file has for them; reads at opening tell, too.
    const PageReader::Work read = pager.reading();
    if (read.seconds > 0)
        trace.costs.read_bytes_per_second = bytes / double(r.pages) * double(read.pages) / read.seconds;
    // A trainer's waits are those since it was made: restoring a checkpoint has some. Of a long run only the first
    // visits are kept.
    const double computing = std::max(0.0, seconds - r.counters.read_wait_seconds);
    const double uses = double(r.counters.tier1 + r.counters.tier2 + r.counters.tier3);
    double kept = 0;
    for (const Visit& visit : r.visits) kept += double(visit.pages.size());
    const double visits = double(r.visits.size()) * std::max(1.0, uses / std::max(kept, 1.0));
    trace.costs.seconds_per_visit = r.visits.empty() ? 0 : computing / visits;
    trace.visits = r.visits;
    return formats::writeTrace(path, trace);
}

// ---- the map --------------------------------------------------------------------------------------------------------

ResidencyMap::ResidencyMap(std::function<const Pager*()> pager)
    : pager_(std::move(pager)), terminal_(::isatty(2) == 1) {}

ResidencyMap::~ResidencyMap() {
    const Pager* pager = pager_ ? pager_() : nullptr;
    if (pager && !shown_) fmt::print(stderr, "{}", draw(*pager));
}

std::string ResidencyMap::draw(const Pager& pager) const {
    std::string text;
    const PageGroups& groups = pager.groups();
    for (uint32_t g = 0; g < groups.count(); ++g) {
        text += fmt::format("{:>4} ", g);
        for (PageId page = groups.first(g); page < groups.end(g); ++page) text += ".#+"[pager.tierOf(page) + 1];
        text += "\n";
    }
    return text;
}

void ResidencyMap::show() {
    const Pager* pager = terminal_ && pager_ ? pager_() : nullptr;
    if (!pager) return;
    if (shown_) fmt::print(stderr, "\033[{}A", pager->groups().count());
    fmt::print(stderr, "\r{}", draw(*pager));
    shown_ = true;
}

}  // namespace vkmoe::program
