// Engine: a device that has proved that it computes as the contract says, and the kernels built for it.
//
//     auto engine = vkmoe::Engine::open({.device = "auto"});
//     auto layer  = vkmoe::Layer::open(**engine, "model.moe0");
//     auto result = layer->forward(tokens, {});
//
// One engine per device. Its calls, and those of its layers, may come from several threads and are served one at a
// time.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "host/device.h"
#include "vkmoe/kernels.h"

namespace vkmoe {
inline namespace v1 {

class Case;

struct EngineOptions {
    // auto: the fastest real GPU, else (none, or refused) the CPU. cpu. gpu: the best Vulkan device, a software driver
    // if there is no other. gpu:N: the N-th of listVulkanDevices().
    std::string device = "auto";
    DeviceOptions
        device_options;  // its clamp, where there is none: the environment's VKMOE_CLAMP, JSON of DeviceLimits
    bool probe = true;   // compare the device with the CPU before it is trusted; never turn it off for exact work
};

class Engine {
public:
    // Errors: bad_input (no such choice), no_device, refused_device (the sentence names the failing row).
    static Result<std::unique_ptr<Engine>> open(const EngineOptions& options = {});
    ~Engine();

    Device& device() { return *device_; }
    // With "auto": why each real GPU that does not serve was passed over. After a loss: why the CPU serves.
    const std::vector<std::string>& notes() const { return notes_; }

    // The kernel for these constants, built and compared with its CPU twin at first use. Valid as long as device() is
    // the same.
    Result<const Kernel*> kernel(const KernelCode& code, const Constants& constants);

    // When a call has failed with device_lost: opens the device again, and device() is the new one. Nothing made on the
    // old one works on it: layers, kernels and buffers are to be made anew; the old ones may be used as before (they
    // say device_lost) and destroyed in any order while the engine lives. The CPU serves from then on, with a note, if
    // the device was lost three times within a minute or cannot be opened again. Does nothing to a device that is not
    // lost, so that everyone who was told device_lost may call it. Has no errors today.
    Result<void> recover();
    // How many devices served before this one; it tells whether what was made is still of use.
    uint64_t generation() const { return lost_.size(); }

    std::recursive_mutex& mutex() { return mutex_; }  // held by every public call of the engine and of its layers

private:
    class Verdicts;
    Engine(std::unique_ptr<Device> device, const EngineOptions& options);
    static Result<std::unique_ptr<Engine>> start(std::unique_ptr<Device> device, const EngineOptions& options);
    static Result<std::unique_ptr<Engine>> openAuto(const EngineOptions& options);
    static Result<std::unique_ptr<Engine>> openGpu(uint32_t index, const EngineOptions& options);
    bool lostTooOften();
    Result<std::unique_ptr<Device>> openAgain() const;
    Result<void> compare(const Case& test);
    Result<void> probeMath();
    Result<void> probeKernel(const KernelCode& code, const Constants& constants);

    EngineOptions options_;
    std::vector<std::unique_ptr<Device>> lost_;  // buffers may still point to them
    std::vector<std::chrono::steady_clock::time_point> losses_;
    std::unique_ptr<Device> device_;
    std::unique_ptr<Device> scalar_;  // the CPU twins that a Vulkan device is compared with; null on the CPU
    std::unique_ptr<Verdicts> verdicts_;
    std::vector<std::string> notes_;
    std::recursive_mutex mutex_;
};

// $XDG_CACHE_HOME/vkmoe, else ~/.cache/vkmoe, else empty: where a program may keep pipelines and verdicts.
std::string userCacheFolder();

}  // namespace v1
}  // namespace vkmoe
