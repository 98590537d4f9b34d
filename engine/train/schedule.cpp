#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "vkmoe/optimizer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr double kPi = 3.14159265358979323846;

// 1 - s*(1 - s*(...)) with the factors 1/(k(k+1)) of a Taylor series, highest first; s is the square of an angle up to
// pi/4, beyond which the next term is below 2^-56.
double series(double s, double first_divisor) {
    double sum = 1;
    for (double k = first_divisor + 14; k >= first_divisor; k -= 2) sum = 1 - s / (k * (k + 1)) * sum;
    return sum;
}

double cosine(double angle) { return series(angle * angle, 1); }
double sine(double angle) { return angle * series(angle * angle, 2); }

// cos(pi * x) for x from 0 to 1. No library's: their last bits differ.
double cosineOfPi(double x) {
    if (x > 0.5) return -cosineOfPi(1 - x);
    return x <= 0.25 ? cosine(kPi * x) : sine(kPi * (0.5 - x));
}

}  // namespace

Result<void> validate(const Schedule& s) {
    if (s.kind == ScheduleKind::constant) return {};
    if (s.total_steps < std::max<uint64_t>(s.warmup_steps, 1))
        return Error{ErrorCode::bad_input, fmt::format("schedule: total_steps is {}, less than the {} of warmup_steps",
                                                       s.total_steps, std::max<uint64_t>(s.warmup_steps, 1))};
    if (s.final_fraction >= 0 && s.final_fraction <= 1) return {};
    return Error{ErrorCode::bad_input,
                 fmt::format("schedule: final_fraction is {}, not from 0 to 1", s.final_fraction)};
}

double rateFraction(const Schedule& s, uint64_t step) {
    if (s.kind == ScheduleKind::constant) return 1;
    if (step < s.warmup_steps) return double(step) / double(s.warmup_steps);
    const uint64_t peak = std::max<uint64_t>(s.warmup_steps, 1);
    if (step <= peak) return 1;
    if (step >= s.total_steps) return s.final_fraction;
    double progress = double(step - peak) / double(s.total_steps - peak);
    return s.final_fraction + (1 - s.final_fraction) * (0.5 * (1 + cosineOfPi(progress)));
}

}  // namespace v1
}  // namespace vkmoe
