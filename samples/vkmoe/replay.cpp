#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/formats/residency_trace.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/replay_table.h"
#include "samples/vkmoe/targets.h"
#include "samples/vkmoe/tensor_file.h"

namespace vkmoe::program {
namespace {

constexpr Policy kPolicies[] = {Policy::automatic, Policy::expected, Policy::lfu, Policy::lru, Policy::fixed};

// Bytes that a unit stands for; 0: no such unit.
double unitBytes(std::string_view unit) {
    const std::pair<std::string_view, double> units[] = {{"", 1},         {"B", 1},        {"KiB", 0x1p10},
                                                         {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    for (const auto& [name, bytes] : units)
        if (name == unit) return bytes;
    return 0;
}

// "10" and "10%" are percent of all pages; "192MiB" and numbers above 100 are bytes.
Result<uint32_t> slotsOf(const std::string& budget, const Trace& trace) {
    double number = -1;
    const char* end = budget.data() + budget.size();
    const char* unit = std::from_chars(budget.data(), end, number).ptr;
    bool percent = std::string_view(unit, end) == "%" || (unit == end && number <= 100);
    double bytes = unitBytes(std::string_view(unit, end));
    if (!(number > 0) || !std::isfinite(number) || (!percent && bytes == 0) || (percent && number > 100))
        return Error{ErrorCode::bad_input,
                     fmt::format("budget \"{}\" is neither a percentage nor a size such as 192MiB", budget)};
    double pages = double(trace.allPages());
    double slots = percent ? std::round(number / 100 * pages) : number * bytes / double(trace.largestPage());
    return uint32_t(std::clamp(slots, 1.0, pages));
}

ReplayBudget atBudget(const Trace& trace, uint32_t slots) {
    ReplayBudget budget{.slots = slots};
    budget.percent = 100.0 * slots / double(trace.allPages());
    budget.bytes = slots * trace.largestPage();
    budget.belady = replayBelady(trace, slots);
    budget.apart = replayBeladyApart(trace, slots);
    for (Policy policy : kPolicies) {
        auto residency = Residency::create(policy, trace.pages, slots);
        Replay result = vkmoe::replay(trace, *residency, slots);
        budget.rows.push_back({policy, residency->decides(), result});
    }
    return budget;
}

Result<ReplayTable> replayAll(const ReplayOptions& options) {
    VKMOE_TRY(file, openFile(options.trace));
    VKMOE_TRY(trace, formats::readTrace(*file));
    std::vector<uint32_t> budgets;
    for (const std::string& budget : options.budgets) {
        VKMOE_TRY(slots, slotsOf(budget, trace));
        budgets.push_back(slots);
    }
    ReplayTable table{.file = options.trace,
                      .groups = trace.pages.size(),
                      .pages = trace.allPages(),
                      .page_bytes = trace.largestPage(),
                      .visits = trace.visits.size(),
                      .budgets = {}};
    Progress progress("replaying");
    for (size_t i = 0; i < budgets.size(); ++i) {
        progress.show(i, budgets.size());
        table.budgets.push_back(atBudget(trace, budgets[i]));
    }
    return table;
}

}  // namespace

int replay(const Context& context, const ReplayOptions& options) {
    if (!options.html.empty())
        if (auto target = checkTarget(options.html, {options.trace}); !target) return fail(target.error());
    auto table = replayAll(options);
    if (!table) return fail(table.error());
    if (!options.html.empty())
        if (auto written = writeText(options.html, replayHtml(*table)); !written) return fail(written.error());
    if (context.json)
        print(replayJson(*table));
    else
        fmt::print("{}", replayText(*table));
    return kOk;
}

}  // namespace vkmoe::program
