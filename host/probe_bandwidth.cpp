#include "host/probe_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMost = uint64_t{32} << 20, kMostOnHost = uint64_t{8} << 20, kLeast = uint64_t{64} << 10;  // bytes
constexpr uint32_t kSteps = 64;    // words a thread reads
constexpr double kEnough = 0.003;  // seconds of one measurement
constexpr uint32_t kMostTimes = 256;

// The parameters of peak_read, see params.h.
struct ReadParams {
    uint64_t source, result;
    uint32_t threads, steps;
};

Result<double> secondsOf(Device& device, const Commands& commands) {
    auto start = Clock::now();
    VKMOE_CHECK(submitAndWait(device, commands));
    return std::max(std::chrono::duration<double>(Clock::now() - start).count(), 1e-9);
}

// Bytes a second of the work that `record` records for so many bytes: of more and more bytes, and then again and again,
// until it takes long enough to be measured; the best of three.
template <class Record>
Result<double> measure(Device& device, uint64_t most, const Record& record) {
    uint32_t times = 1;
    for (uint64_t bytes = kLeast;;) {
        Commands commands;
        for (uint32_t i = 0; i < times; ++i) {
            record(commands, bytes);
            commands.barrier();
        }
        VKMOE_TRY(seconds, secondsOf(device, commands));
        for (int i = 0; i < 2 && seconds >= kEnough; ++i) {  // another process may have had the processor
            VKMOE_TRY(again, secondsOf(device, commands));
            seconds = std::min(seconds, again);
        }
        if (seconds >= kEnough || times == kMostTimes) return double(bytes) * times / seconds;
        if (bytes == most) times *= 4;
        bytes = std::min(bytes * 4, most);
    }
}

uint64_t bytesToUse(Device& device) {
    const auto& limits = device.info().limits;
    uint64_t used = device.ledger().used(), free = limits.memory_budget - std::min(limits.memory_budget, used);
    const bool on_host = device.info().type == DeviceType::cpu || device.info().type == DeviceType::software;
    uint64_t bytes = std::min({on_host ? kMostOnHost : kMost, free / 8, limits.max_allocation});
    return std::max(bytes / kLeast * kLeast, kLeast);
}

}  // namespace

Result<MemorySpeeds> probeBandwidth(Device& device, const KernelCode& peak_read) {
    const uint64_t most = bytesToUse(device);
    VKMOE_TRY(kernel, device.build(peak_read, {}));
    VKMOE_TRY(local, device.allocate(most, Memory::device, "bandwidth probe"));
    VKMOE_TRY(host, device.allocate(most, Memory::upload, "bandwidth probe"));
    VKMOE_TRY(result, device.allocate(most / kSteps, Memory::device, "bandwidth probe"));
    std::memset(host.mapped().data(), 1, most);
    Commands fill;
    fill.fill(local, 0, most, 1);
    VKMOE_CHECK(submitAndWait(device, fill));
    auto reading = [&](const Buffer& from) {
        return measure(device, most, [&](Commands& commands, uint64_t bytes) {
            auto threads = uint32_t(bytes / 4 / kSteps);
            commands.dispatch(*kernel, ReadParams{from.address(), result.address(), threads, kSteps}, threads);
        });
    };
    VKMOE_TRY(device_read, reading(local));
    VKMOE_TRY(host_read, reading(host));
    VKMOE_TRY(copy, measure(device, most,
                            [&](Commands& commands, uint64_t bytes) { commands.copy(host, 0, local, 0, bytes); }));
    return MemorySpeeds{device_read, host_read, copy};
}

}  // namespace v1
}  // namespace vkmoe
