// Faults: calls to a driver that fail when a test wants them to, and a count of those made.
//
//     auto faults = std::make_shared<Faults>();
//     auto device = openVulkanDevice(0, {.faults = faults});
//     faults->arm({.call = FaultyCall::submit, .nth = 2, .result = Fault::device_lost});
//
// A device opened without any pays nothing. Any number of devices and threads may share one.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

namespace vkmoe {
inline namespace v1 {

enum class FaultyCall {
    any,         // every call that can fail, from the loader's first on
    allocation,  // of a piece of device memory (the CPU device: of any buffer); one serves many buffers
    submit,
    wait,   // for the timeline
    drain,  // waiting for all work, before things are destroyed
};

enum class Fault { none = 0, out_of_host_memory = -1, out_of_device_memory = -2, device_lost = -4 };  // as VkResult

struct FaultPlan {
    FaultyCall call = FaultyCall::any;
    uint64_t nth = 0;  // of these calls fails, counted from 1 since the plan was made; 0: none
    Fault result = Fault::device_lost;
    bool lasting =
        false;  // all of these calls after it fail too; a drain only once for lack of memory, so that it ends
};

class Faults {
public:
    void arm(const FaultPlan& plan);  // counts begin at 0 again
    void disarm() { arm({}); }

    uint64_t seen(FaultyCall call = FaultyCall::any) const;  // calls since arm
    uint64_t failed() const;                                 // of them

    // Devices tell each call before they make it; a fault is what it returns instead of being made.
    Fault next(FaultyCall call);

private:
    bool hits(FaultyCall call) const;

    mutable std::mutex mutex_;
    FaultPlan plan_;
    std::array<uint64_t, 5> seen_{};
    uint64_t failed_ = 0, failed_drains_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
