// CostModel: which experts of a turn the host computes, so that host and device are done at about the same time.
// Numbers in, choices out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace vkmoe {
inline namespace v1 {

struct CostModel {
    // An expert's weights, and how many rows are multiplied by them.
    struct Work {
        uint64_t bytes = 0;
        uint32_t rows = 0;
    };

    // Bytes of weights a second.
    double device_read = 0, host_read = 0;  // by the device's kernels, from its memory and from the host's; 0: unknown
    double host_guess = 0;                  // by the host's kernels, before anything was measured
    double host_speed = host_guess;         // ... as measured

    double device_error = 1;  // what both of the device's speeds have been multiplied by since

    static constexpr double kMostError = 8;
    static constexpr uint32_t kHostRows = 4, kDeviceRows = 32;  // rows for which weights are read once
    static constexpr double kTurn = 5e-5;                       // seconds of waking the host's threads, and of copies

    static double bytesRead(const Work& work, uint32_t rows_at_a_time) {
        return double(work.bytes) * ((work.rows + rows_at_a_time - 1) / rows_at_a_time);
    }
    double hostSeconds(const Work& work) const { return bytesRead(work, kHostRows) / host_speed; }
    double deviceSeconds(const Work& work, double speed) const { return bytesRead(work, kDeviceRows) / speed; }

    // What the device would need for all of both.
    double deviceSeconds(std::span<const Work> near, std::span<const Work> far) const {
        double seconds = 0;
        for (const Work& work : near) seconds += deviceSeconds(work, device_read);
        for (const Work& work : far) seconds += deviceSeconds(work, host_read);
        return seconds;
    }

    // For each of `far`, whose pages are in the host's memory: true if the host computes it. The device has `near` to
    // do, too.
    std::vector<bool> leave(std::span<const Work> near, std::span<const Work> far) const {
        std::vector<bool> left(far.size());
        if (device_read <= 0 || host_read <= 0 || host_speed <= 0) return left;
        double device = deviceSeconds(near, far), host = kTurn;
        std::vector<size_t> order(far.size());  // what the host gains most by comes first
        std::iota(order.begin(), order.end(), size_t{0});
        auto gain = [&](size_t i) { return deviceSeconds(far[i], host_read) / hostSeconds(far[i]); };
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return gain(a) > gain(b); });
        double best = device;
        size_t count = 0;
        for (size_t i = 0; i < order.size(); ++i) {
            host += hostSeconds(far[order[i]]);
            device -= deviceSeconds(far[order[i]], host_read);
            if (std::max(host, device) >= best) continue;
            best = std::max(host, device);
            count = i + 1;
        }
        for (size_t i = 0; i < count; ++i) left[order[i]] = true;
        return left;
    }

    // The host went through so many bytes of weights (bytesRead).
    void learn(double bytes, double seconds) {
        if (seconds > 0) host_speed += 0.2 * (bytes / seconds - host_speed);
    }
    // The device was thought to need `predicted` seconds beside a host that took `seconds`, and was done before it or
    // not. A look at its timeline tells no more, but over many turns of different sizes that is enough. Never more than
    // kMostError from what was measured at first.
    void learnDevice(double predicted, double seconds, bool done_before) {
        if (predicted <= 0 || seconds <= 0 || done_before == (predicted <= seconds)) return;
        double factor = 1 + 0.2 * (std::clamp(predicted / seconds, 0.5, 2.0) - 1);
        factor = std::clamp(device_error * factor, 1 / kMostError, kMostError) / device_error;
        device_error *= factor;
        device_read *= factor;
        host_read *= factor;
    }
    // A turn without the host: what was measured long ago, when others used the processors, is slowly forgotten.
    void forget() { host_speed += 0.001 * (host_guess - host_speed); }
};

}  // namespace v1
}  // namespace vkmoe
