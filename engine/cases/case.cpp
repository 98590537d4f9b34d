#include "engine/cases/case.h"

#include <fmt/format.h>

#include <chrono>

#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kAlign = 256;

// Where each region lies in the one buffer of a run.
struct Layout {
    std::vector<uint64_t> offsets;
    uint64_t bytes = 0;
};

Layout layoutOf(const Case& test) {
    Layout layout;
    for (const auto& region : test.regions()) {
        layout.offsets.push_back(layout.bytes);
        layout.bytes += (region.words.size() * 4 + kAlign - 1) / kAlign * kAlign + kAlign;
    }
    return layout;
}

void fillUpload(const Case& test, const Layout& layout, uint64_t address, std::span<std::byte> upload) {
    for (size_t i = 0; i < test.regions().size(); ++i) {
        const auto& words = test.regions()[i].words;
        if (!words.empty()) std::memcpy(upload.data() + layout.offsets[i], words.data(), words.size() * 4);
    }
    for (const auto& link : test.links()) {
        uint64_t target = address + layout.offsets[link.target];
        if (link.where >= 0) std::memcpy(upload.data() + layout.offsets[size_t(link.where)] + link.offset, &target, 8);
    }
}

// The parameters with addresses in them, as a struct of the largest size (devices push code.params_size bytes).
struct Pushed {
    std::array<std::byte, kMaxParamsSize> bytes{};
};

Pushed linkParams(const Case& test, const Layout& layout, uint64_t address) {
    Pushed pushed;
    std::memcpy(pushed.bytes.data(), test.params().data(), test.params().size());
    for (const auto& link : test.links()) {
        uint64_t target = address + layout.offsets[link.target];
        if (link.where < 0) std::memcpy(pushed.bytes.data() + link.offset, &target, 8);
    }
    return pushed;
}

constexpr double kEnough = 1.5;  // seconds of timing, after which a slow kernel is not repeated

// The fastest of `repeats` dispatches, of fewer where one takes long; `restore` brings the memory back to its state
// before (a kernel may work in place).
Result<double> timeDispatch(Device& device, const Commands& restore, const Kernel& kernel, const Pushed& pushed,
                            uint64_t threads, uint32_t repeats) {
    double best = 1e30, spent = 0;
    for (uint32_t i = 0; i < repeats && spent < kEnough; ++i) {
        VKMOE_CHECK(submitAndWait(device, restore));
        Commands commands;
        commands.dispatchRaw(kernel, pushed.bytes, threads);
        auto start = std::chrono::steady_clock::now();
        VKMOE_CHECK(submitAndWait(device, commands));
        double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        best = std::min(best, seconds);
        spent += seconds;
    }
    return best;
}

}  // namespace

size_t Case::add(std::string name, std::vector<uint32_t> words, bool output) {
    regions_.push_back({std::move(name), std::move(words), output});
    return regions_.size() - 1;
}

Result<CaseRun> run(Device& device, const Case& test, uint32_t repeats) {
    VKMOE_TRY(kernel, device.build(test.code(), words(test.constants())));
    Layout layout = layoutOf(test);
    VKMOE_TRY(memory, device.allocate(layout.bytes, Memory::device, "case memory"));
    VKMOE_TRY(upload, device.allocate(layout.bytes, Memory::upload, "case upload"));
    VKMOE_TRY(download, device.allocate(layout.bytes, Memory::download, "case download"));
    fillUpload(test, layout, memory.address(), upload.mapped());
    Pushed pushed = linkParams(test, layout, memory.address());

    Commands restore;
    restore.copy(upload, 0, memory, 0, layout.bytes);
    Commands commands = restore;
    commands.barrier();
    commands.dispatchRaw(*kernel, pushed.bytes, test.threads);
    commands.barrier();
    commands.copy(memory, 0, download, 0, layout.bytes);
    VKMOE_CHECK(submitAndWait(device, commands));

    CaseRun result;
    for (size_t i = 0; i < test.regions().size(); ++i) {
        auto& words = result.regions.emplace_back();
        if (!test.regions()[i].output) continue;
        words.resize(test.regions()[i].words.size());
        if (!words.empty()) std::memcpy(words.data(), download.mapped().data() + layout.offsets[i], words.size() * 4);
    }
    if (repeats == 0) return result;
    VKMOE_TRY(seconds, timeDispatch(device, restore, *kernel, pushed, test.threads, repeats));
    result.seconds = seconds;
    return result;
}

std::optional<std::string> difference(const Case& test, const CaseRun& device, const CaseRun& cpu) {
    for (size_t r = 0; r < test.regions().size(); ++r) {
        const auto& a = device.regions[r];
        const auto& b = cpu.regions[r];
        for (size_t i = 0; i < a.size(); ++i) {
            if (a[i] == b[i]) continue;
            return fmt::format("{} [{}]: {}[{}] is 0x{:08x}, the CPU's is 0x{:08x}", test.code().name, test.label(),
                               test.regions()[r].name, i, a[i], b[i]);
        }
    }
    return std::nullopt;
}

}  // namespace v1
}  // namespace vkmoe
