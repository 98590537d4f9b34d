#include "samples/vkmoe/paging_options.h"

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

}  // namespace

void addBudgets(CLI::App& command, PagingChoice& choice) {
    addBytes(command, "--vram-budget", choice.device_budget,
             "expert pages on the device, in bytes or as 1.5GiB; pages the rest");
    addBytes(command, "--host-budget", choice.host_budget, "expert pages in memory that the device reads");
    command.add_option("--policy", choice.policy, "lru, lfu, expected, static or auto")
        ->check(CLI::IsMember({"lru", "lfu", "expected", "static", "auto"}))
        ->capture_default_str();
}

}  // namespace vkmoe::program
