#include <fmt/format.h>

#include "engine/cpu/simd/panel_tile.h"
#include "samples/vkmoe/commands.h"

namespace vkmoe::program {
namespace {

struct Row {
    std::string choice;
    DeviceInfo info;
    std::string verdict;
};

std::string probe(const Context& context, const std::string& choice) {
    auto engine = Engine::open(context.engineOptions(choice));
    return engine ? "exact" : engine.error().detail;
}

Json toJson(const Row& row) {
    return {{"device", row.choice},
            {"name", row.info.name},
            {"type", name(row.info.type)},
            {"api", row.info.api},
            {"driver", row.info.driver},
            {"memory_bytes", row.info.memory},
            {"subgroup", row.info.limits.subgroup_size},
            {"probe", row.verdict}};
}

}  // namespace

int devices(const Context& context) {
    std::vector<Row> rows;
    auto candidates = listVulkanDevices();
    for (size_t i = 0; candidates && i < candidates->size(); ++i) {
        const VulkanCandidate& candidate = candidates->at(i);
        std::string choice = fmt::format("gpu:{}", i);
        rows.push_back({choice, candidate.info,
                        candidate.unusable.empty() ? probe(context, choice) : "unusable: " + candidate.unusable});
    }
    Row cpu{"cpu", openCpuDevice()->info(), "exact"};
    cpu.info.driver = simd::targetName();
    rows.push_back(cpu);
    if (context.json) {
        Json list = Json::array();
        for (const Row& row : rows) list.push_back(toJson(row));
        Json out{{"devices", list}};
        if (!candidates) out["vulkan"] = candidates.error().detail;
        print(out);
        return kOk;
    }
    fmt::print("{:<7} {:<44} {:<10} {:<9} {:>10} {:>8}  {}\n", "device", "name", "type", "API", "memory", "subgroup",
               "probe");
    for (const Row& row : rows) {
        fmt::print("{:<7} {:<44} {:<10} {:<9} {:>10} {:>8}  {}\n", row.choice, row.info.name.substr(0, 44),
                   name(row.info.type), row.info.api, readableBytes(double(row.info.memory)),
                   row.info.limits.subgroup_size, row.verdict);
        fmt::print("        {}\n", row.info.driver);
    }
    if (!candidates) fmt::print("{}\n", candidates.error().detail);
    return kOk;
}

}  // namespace vkmoe::program
