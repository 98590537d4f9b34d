#include "samples/vkmoe/context.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace vkmoe::program {

EngineOptions Context::engineOptions(const std::string& choice) const {
    EngineOptions options;
    options.device = choice;
    options.device_options.cache_folder = userCacheFolder();
    return options;
}

Result<std::unique_ptr<Engine>> Context::openEngine() const {
    auto engine = Engine::open(engineOptions(device));
    if (engine)
        for (const auto& note : (*engine)->notes()) fmt::print(stderr, "vkmoe: passed over: {}\n", note);
    return engine;
}

int Context::runOnDevice(const std::function<Result<void>(Engine&)>& job) const {
    auto engine = openEngine();
    if (!engine) return fail(engine.error());
    auto done = job(**engine);
    if (!done && done.error().code == ErrorCode::refused_device && device == "auto") {
        fmt::print(stderr, "vkmoe: {}; the CPU takes over\n", done.error().detail);
        Context on_cpu = *this;
        on_cpu.device = "cpu";
        return on_cpu.runOnDevice(job);
    }
    return done ? int(kOk) : fail(done.error());
}

int fail(const Error& error) {
    fmt::print(stderr, "vkmoe: {}\n", error.detail);
    switch (error.code) {
        case ErrorCode::bad_input:
        case ErrorCode::io:
        case ErrorCode::out_of_memory:  // what was asked for is too large
        case ErrorCode::unsupported:
            return kBadInput;
        case ErrorCode::no_device:
        case ErrorCode::refused_device:
        case ErrorCode::device_lost:
            return kNoDevice;
        case ErrorCode::internal:
            return kCheckFailed;
    }
    return kCheckFailed;
}

int fail(const std::string& file, const Error& error) {
    Error named = error;
    if (!named.detail.starts_with(file)) named.detail = file + ": " + named.detail;
    return fail(named);
}

void print(const Json& json) { fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace)); }

Progress::Progress(std::string what) : what_(std::move(what)), terminal_(isatty(STDERR_FILENO)) {}

Progress::~Progress() {
    if (shown_ >= 0) fmt::print(stderr, "\r\x1b[K");
}

void Progress::show(uint64_t done, uint64_t all) {
    int percent = all == 0 ? 100 : int(done * 100 / all);
    if (!terminal_ || percent == shown_) return;
    shown_ = percent;
    fmt::print(stderr, "\r\x1b[K{} {:3}% {}", what_, percent, std::string(size_t(percent) / 4, '#'));
    std::fflush(stderr);
}

std::string readableBytes(double bytes) {
    const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    for (; bytes >= 1024 && unit + 1 < std::size(units); ++unit) bytes /= 1024;
    return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

}  // namespace vkmoe::program
