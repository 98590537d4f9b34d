#include "vkmoe/engine.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <charconv>
#include <cstdlib>

#include "engine/cases/scene.h"
#include "engine/clamp.h"
#include "engine/verdicts.h"
#include "shaders/math_probe.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// The index in "gpu:N", or -1.
int64_t gpuIndex(const std::string& choice) {
    uint32_t index = 0;
    const char* end = choice.data() + choice.size();
    if (!choice.starts_with("gpu:") || choice.size() == 4) return -1;
    auto [rest, error] = std::from_chars(choice.data() + 4, end, index);
    return error == std::errc() && rest == end ? int64_t(index) : -1;
}

// The cache folder is made when it is first needed.
DeviceOptions withCacheFolder(DeviceOptions options) {
    if (!options.cache_folder.empty()) ::mkdir(options.cache_folder.c_str(), 0755);
    return options;
}

// Two small shapes show a kernel's first block, its short last block, and a second tile.
constexpr Shape kProbeShapes[] = {
    {.tokens = 3, .experts = 4, .top_k = 2, .model_dim = 40, .hidden_dim = 24, .seed = 11},
    {.tokens = 35,
     .experts = 5,
     .top_k = 3,
     .model_dim = 67,
     .hidden_dim = 81,
     .skew = Skew::one_takes_all,
     .seed = 12},
};

}  // namespace

std::string userCacheFolder() {
    const char* xdg = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    std::string base = xdg && *xdg ? xdg : home && *home ? std::string(home) + "/.cache" : "";
    if (base.empty()) return "";
    ::mkdir(base.c_str(), 0755);
    return base + "/vkmoe";
}

Engine::Engine(std::unique_ptr<Device> device, const EngineOptions& options)
    : options_(options), device_(std::move(device)) {
    if (device_->info().type == DeviceType::cpu) return;
    scalar_ = openCpuDevice({.threads = 1, .simd = false});
    verdicts_ = std::make_unique<Verdicts>(options.device_options.cache_folder, device_->info().identity);
}

Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::start(std::unique_ptr<Device> device, const EngineOptions& options) {
    std::unique_ptr<Engine> engine(new Engine(std::move(device), options));
    if (engine->scalar_ && options.probe) VKMOE_CHECK(engine->probeMath());
    return engine;
}

Result<std::unique_ptr<Engine>> Engine::openGpu(uint32_t index, const EngineOptions& options) {
    VKMOE_TRY(device, openVulkanDevice(index, withCacheFolder(options.device_options)));
    return start(std::move(device), options);
}

// The first real GPU that proves itself; why others were passed over becomes a note.
Result<std::unique_ptr<Engine>> Engine::openAuto(const EngineOptions& options) {
    std::vector<std::string> notes;
    auto candidates = listVulkanDevices();
    for (uint32_t i = 0; candidates && i < candidates->size(); ++i) {
        if (candidates->at(i).info.type == DeviceType::software) continue;
        auto engine = openGpu(i, options);
        if (engine) {
            (*engine)->notes_ = notes;
            return engine;
        }
        notes.push_back(engine.error().detail);
    }
    VKMOE_TRY(engine, start(openCpuDevice(options.device_options), options));
    engine->notes_ = notes;
    return engine;
}

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& wanted) {
    EngineOptions options = wanted;
    if (!options.device_options.clamp) {
        VKMOE_TRY(clamp, clampFromEnvironment());
        options.device_options.clamp = clamp;
    }
    if (options.device == "auto") return openAuto(options);
    if (options.device == "cpu") return start(openCpuDevice(options.device_options), options);
    if (options.device != "gpu") {
        int64_t index = gpuIndex(options.device);
        if (index >= 0) return openGpu(uint32_t(index), options);
        return Error{ErrorCode::bad_input,
                     fmt::format("device \"{}\" is not one of auto, cpu, gpu, gpu:N", options.device)};
    }
    VKMOE_TRY(candidates, listVulkanDevices());
    for (uint32_t i = 0; i < candidates.size(); ++i)
        if (candidates[i].unusable.empty()) return openGpu(i, options);
    if (candidates.empty()) return Error{ErrorCode::no_device, "no Vulkan device"};
    return Error{ErrorCode::no_device,
                 fmt::format("no usable Vulkan device: {}: {}", candidates[0].info.name, candidates[0].unusable)};
}

bool Engine::lostTooOften() {
    constexpr size_t kMost = 3;
    auto now = std::chrono::steady_clock::now();
    std::erase_if(losses_, [&](auto loss) { return now - loss > std::chrono::minutes(1); });
    losses_.push_back(now);
    return losses_.size() >= kMost;
}

// The same physical device, wherever the list has it now.
Result<std::unique_ptr<Device>> Engine::openAgain() const {
    VKMOE_TRY(candidates, listVulkanDevices());
    for (uint32_t i = 0; i < candidates.size(); ++i)
        if (candidates[i].unusable.empty() && device_->info().identity.starts_with(candidates[i].info.identity))
            return openVulkanDevice(i, options_.device_options);
    return Error{ErrorCode::no_device, device_->info().name + " is not there any more"};
}

Result<void> Engine::recover() {
    std::lock_guard lock(mutex_);
    if (!device_->lost()) return {};
    auto again = lostTooOften() ? Error{ErrorCode::device_lost, "for the third time within a minute"} : openAgain();
    if (!again) {
        notes_.push_back(fmt::format("{} was lost ({}): the CPU serves", device_->info().name, again.error().detail));
        scalar_.reset();  // the CPU needs no proof
        again = openCpuDevice(options_.device_options);
    }
    lost_.push_back(std::exchange(device_, std::move(again).value()));
    return {};
}

// The device's bits against the scalar CPU's.
Result<void> Engine::compare(const Case& test) {
    VKMOE_TRY(got, run(*device_, test));
    VKMOE_TRY(expected, run(*scalar_, test));
    if (auto row = difference(test, got, expected))
        return Error{ErrorCode::refused_device, fmt::format("{} is refused: {}", device_->info().name, *row)};
    return {};
}

Result<void> Engine::probeMath() {
    const KernelCode& code = kernels().math_probe;
    if (verdicts_->passed(code, {})) return {};
    for (uint32_t function = 0; function < kProbeCount; ++function) VKMOE_CHECK(compare(mathCase(function, 77, 1000)));
    verdicts_->record(code, {});
    return {};
}

Result<void> Engine::probeKernel(const KernelCode& code, const Constants& constants) {
    if (verdicts_->passed(code, words(constants))) return {};
    for (const Shape& shape : kProbeShapes) VKMOE_CHECK(compare(makeCase(code, constants, shape)));
    verdicts_->record(code, words(constants));
    return {};
}

Result<const Kernel*> Engine::kernel(const KernelCode& code, const Constants& constants) {
    std::lock_guard lock(mutex_);
    if (scalar_ && options_.probe) VKMOE_CHECK(probeKernel(code, constants));
    return device_->build(code, words(constants));
}

}  // namespace v1
}  // namespace vkmoe
