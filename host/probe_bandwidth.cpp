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
constexpr double kHelps = 0.9;  // of the time on one queue: a transfer queue is worth its waits

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

// Copies of `bytes` to where nothing is read, and about as much work of kernels, one after the other and side by side:
// the best of three each.
template <class Copy, class Read>
Result<bool> probeTransferQueue(Device& device, uint64_t bytes, uint32_t reads, const Copy& copy, const Read& read) {
    auto seconds = [&](bool beside) -> Result<double> {
        Commands copies, work;
        copy(copies, bytes);
        for (uint32_t i = 0; i < reads; ++i) {
            read(work, bytes);
            work.barrier();
        }
        auto start = Clock::now();
        Commands last;
        if (beside) {
            VKMOE_TRY(value, device.transfer(copies, 0));
            last.awaitTransfer(value);
        } else {
            VKMOE_CHECK(device.submit(copies));
        }
        VKMOE_CHECK(device.submit(work));
        VKMOE_CHECK(submitAndWait(device, last));
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    double one = 1e9, two = 1e9;
    for (int i = 0; i < 3; ++i) {
        VKMOE_TRY(in_order, seconds(false));
        VKMOE_TRY(beside, seconds(true));
        one = std::min(one, in_order);
        two = std::min(two, beside);
    }
    return two < kHelps * one;
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
    VKMOE_TRY(host, device.allocate(most, Memory::host, "bandwidth probe"));
    VKMOE_TRY(result, device.allocate(most / kSteps, Memory::device, "bandwidth probe"));
    std::memset(host.mapped().data(), 1, most);
    Commands fill;
    fill.fill(local, 0, most, 1);
    VKMOE_CHECK(submitAndWait(device, fill));
    auto read = [&](Commands& commands, const Buffer& from, uint64_t bytes) {
        auto threads = uint32_t(bytes / 4 / kSteps);
        commands.dispatch(*kernel, ReadParams{from.address(), result.address(), threads, kSteps}, threads);
    };
    auto readLocal = [&](Commands& commands, uint64_t bytes) { read(commands, local, bytes); };
    auto readHost = [&](Commands& commands, uint64_t bytes) { read(commands, host, bytes); };
    auto copyUp = [&](Commands& commands, uint64_t bytes) { commands.copy(host, 0, local, 0, bytes); };
    VKMOE_TRY(device_read, measure(device, most, readLocal));
    VKMOE_TRY(host_read, measure(device, most, readHost));
    VKMOE_TRY(copy, measure(device, most, copyUp));
    MemorySpeeds speeds{device_read, host_read, copy};
    if (!device.transferQueue()) return speeds;
    auto reads = uint32_t(std::clamp(device_read / copy, 1.0, 64.0));  // as long as the copies take
    const uint64_t half = most / 2;
    auto copyBeside = [&](Commands& commands, uint64_t bytes) { commands.copy(host, 0, local, half, bytes); };
    VKMOE_TRY(helps, probeTransferQueue(device, half, reads, copyBeside, readLocal));
    speeds.transfer_queue = helps;
    return speeds;
}

}  // namespace v1
}  // namespace vkmoe
