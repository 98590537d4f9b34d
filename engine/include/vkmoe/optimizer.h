// What decides a step of AdamW: its options, the schedule of its rate, and the scale of a loss in mixed precision.
// Plain arithmetic in double, the same bits on every machine; the numbers that kernels get are rounded to f32 once.
//
//     AdamwClock clock;
//     clock.advance(options);
//     Adamw numbers = adamwParams(options, clock, options.learning_rate * rateFraction(schedule, clock.step()));
#pragma once

#include <cstdint>

#include "host/result.h"
#include "shaders/params.h"

namespace vkmoe {
inline namespace v1 {

struct AdamwOptions {
    double learning_rate = 0.01;
    double beta1 = 0.9, beta2 = 0.999;  // 0 .. 1 - 2^-24
    double epsilon = 1e-8;              // at least 2^-50
    double weight_decay = 0;
    double max_norm = 0;  // of all gradients together: what is longer is scaled down to it; 0: any length
};

// The error names the field and the number.
Result<void> validate(const AdamwOptions& options);

// The weight of an auxiliary loss: finite and not negative. The error names it by `field`.
Result<void> checkWeight(const char* field, double weight);

// Of `count` machines with the same gradients, machine `index` keeps the moments of tensors whose place among all of
// the model's is index modulo count, and makes their steps; its other weights stay as they are.
struct Shard {
    uint32_t index = 0, count = 1;
};

// Counts steps and keeps beta^step, formed by repeated multiplication; below 2^-60 it stays, 1 - it is 1 then.
class AdamwClock {
public:
    explicit AdamwClock(uint64_t step = 0) : step_(step) {}  // after so many steps, e.g. of a checkpoint

    void advance(const AdamwOptions& options);  // other betas than before count as if they had always been so
    uint64_t step() const { return step_; }
    double power1() const { return first_.power; }   // beta1^step
    double power2() const { return second_.power; }  // beta2^step

private:
    struct Power {
        double beta = -1, power = 1;
        void advance(double new_beta, uint64_t step);
    };
    uint64_t step_;
    Power first_, second_;
};

// What all gradients are multiplied by so that none is longer than max_norm.
double clipFactor(const AdamwOptions& options, double norm);

// The numbers of the step that the clock stands at; the addresses and the count are left to whoever dispatches. Of the
// factors of a gradient, `grad_scale` undoes the sum over a batch and the loss scale, `clip` is clipFactor.
Adamw adamwParams(const AdamwOptions& options, const AdamwClock& clock, double rate, double grad_scale = 1,
                  double clip = 1);

// constant: the rate as it is. cosine: from rate/warmup_steps up in equal steps, the whole rate at step
// max(warmup_steps, 1), then down half a cosine to final_fraction of it at total_steps, where it stays.
enum class ScheduleKind : uint32_t { constant, cosine };

struct Schedule {
    ScheduleKind kind = ScheduleKind::constant;
    uint64_t warmup_steps = 0, total_steps = 0;
    double final_fraction = 0;
};

Result<void> validate(const Schedule& schedule);

// The fraction of the rate at a step, counted from 1.
double rateFraction(const Schedule& schedule, uint64_t step);

// The factor of a loss whose gradients pass through a narrow format: halved when they overflow, doubled when they have
// not for a while.
struct LossScalerOptions {
    double initial = 16384, growth = 2, backoff = 0.5, minimum = 1;
    uint32_t interval = 200;  // good steps in a row before it grows
};

class LossScaler {
public:
    explicit LossScaler(const LossScalerOptions& options = {}) : options_(options), scale_(options.initial) {}
    // Where another one stood.
    LossScaler(const LossScalerOptions& options, double scale, uint32_t streak)
        : options_(options), scale_(scale), streak_(streak) {}

    double scale() const { return scale_; }
    uint32_t streak() const { return streak_; }  // good steps since the scale last changed or a step was left out

    // To be told after each batch whether all its gradients were finite; true: the step is to be made. The gradients
    // were made with scale() as it was before.
    bool update(bool finite);

private:
    LossScalerOptions options_;
    double scale_;
    uint32_t streak_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
