#include "samples/vkmoe/paging_options.h"

#include "samples/vkmoe/option_checks.h"

namespace vkmoe::program {
namespace {

void addBytes(CLI::App& command, const char* name, std::optional<uint64_t>& target, const char* about) {
    command
        .add_option_function<std::string>(
            name, [&target](const std::string& text) { target = parseBytes(text); }, about)
        ->check([](const std::string& text) {
            return parseBytes(text) ? std::string() : text + " is no number of bytes, such as 1000000 or 1.5GiB";
        });
}

void addMemory(CLI::App& command, PagingChoice& choice) {
    addBytes(command, "--vram-budget", choice.device_budget,
             "expert pages on the device, in bytes or as 1.5GiB; pages the rest");
    addBytes(command, "--host-budget", choice.host_budget, "expert pages in memory that the device reads");
    command.add_option("--policy", choice.policy, "lru, lfu, expected, static or auto")
        ->check(CLI::IsMember({"lru", "lfu", "expected", "static", "auto"}))
        ->capture_default_str();
    command.add_option("--prefetch", choice.prefetch, "on: read what the next layer is thought to need")
        ->check(CLI::IsMember({"on", "off"}))
        ->capture_default_str();
    command.add_option("--trace", choice.trace, "where the history of expert uses goes, for vkmoe replay")
        ->check(kPath);
}

}  // namespace

void addTrainingPaging(CLI::App& command, PagingChoice& choice) {
    addMemory(command, choice);
    command
        .add_option("--scratch", choice.scratch,
                    "the folder of the file for experts beyond both budgets; default: for temporary files")
        ->check(kPath);
}

void addPaging(CLI::App& command, PagingChoice& choice) {
    addMemory(command, choice);
    command.add_option("--cpu-experts", choice.host, "on: experts that are not on the device are computed on the CPU")
        ->check(CLI::IsMember({"auto", "on", "off"}))
        ->capture_default_str();
    command.add_option("--pin", choice.pins, "with --policy static: experts that stay in memory, as 0:3,0:17,1:5")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check([](const std::string& text) {
            return parsePin(text) ? std::string() : text + " is no LAYER:EXPERT, such as 0:3";
        });
    command.add_flag("--map", choice.map, "show where every expert is, on stderr");
}

}  // namespace vkmoe::program
