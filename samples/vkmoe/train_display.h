// TrainDisplay: what a training run shows while it runs: a live line on a terminal, a line of text at each validation,
// or with --json a line for each step and each validation.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>

#include "samples/vkmoe/context.h"
#include "vkmoe/lm_trainer.h"

namespace vkmoe::program {

// An exponential mean of losses, 0.95 of the old, that starts unbiased.
class SmoothLoss {
public:
    double add(double loss) {
        sum_ = 0.95 * sum_ + 0.05 * loss, weight_ = 0.95 * weight_ + 0.05;
        return value();
    }
    double value() const { return weight_ == 0 ? 0 : sum_ / weight_; }

private:
    double sum_ = 0, weight_ = 0;
};

// The largest load of an expert over the mean, of the layer where that is largest. 1 is even.
double balance(std::span<const uint64_t> expert_tokens, uint32_t experts);

class TrainDisplay {
public:
    // `first` steps were made before; the run ends at `steps`, or after `minutes`.
    TrainDisplay(bool json, uint64_t first, std::optional<uint64_t> steps, std::optional<double> minutes);
    ~TrainDisplay();

    // `paging`: since training began.
    void step(uint64_t step, const LmStep& done, double smoothed, uint32_t experts,
              const std::optional<PagingReport>& paging);
    void validation(uint64_t step, double loss);
    double seconds() const;  // since the start
    void clear();            // the live line

private:
    double secondsLeft(uint64_t step) const;

    bool json_, terminal_, shown_ = false;
    uint64_t first_, tokens_ = 0;
    std::optional<uint64_t> steps_;
    std::optional<double> minutes_, validation_;
    double loss_ = 0, smoothed_ = 0, last_shown_ = -1;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace vkmoe::program
