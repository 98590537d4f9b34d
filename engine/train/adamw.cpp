#include <fmt/format.h>

#include <cmath>

#include "shaders/exact_math.h"
#include "vkmoe/optimizer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr double kLargest = 0x1p62, kSmallestEpsilon = 0x1p-50, kLargestBeta = 1 - 0x1p-24;
constexpr double kNegligible = 0x1p-60;  // 1 - a power below it is 1

Result<void> checkField(const char* field, double value, double least, double most) {
    if (value >= least && value <= most) return {};
    return Error{ErrorCode::bad_input, fmt::format("adamw: {} is {}, not from {} to {}", field, value, least, most)};
}

// As kernels take it: never subnormal.
float passed(double value) { return state_rule(float(value)); }

}  // namespace

Result<void> validate(const AdamwOptions& o) {
    VKMOE_CHECK(checkField("learning_rate", o.learning_rate, 0, kLargest));
    VKMOE_CHECK(checkField("beta1", o.beta1, 0, kLargestBeta));
    VKMOE_CHECK(checkField("beta2", o.beta2, 0, kLargestBeta));
    VKMOE_CHECK(checkField("epsilon", o.epsilon, kSmallestEpsilon, kLargest));
    VKMOE_CHECK(checkField("weight_decay", o.weight_decay, 0, kLargest));
    return checkField("max_norm", o.max_norm, 0, kLargest);
}

Result<void> checkWeight(const char* field, double weight) {
    if (weight >= 0 && weight <= kLargest) return {};
    return Error{ErrorCode::bad_input, fmt::format("{} is {}, not from 0 to {}", field, weight, kLargest)};
}

void AdamwClock::Power::advance(double new_beta, uint64_t step) {
    uint64_t missing = 1;
    if (beta != new_beta) {
        beta = new_beta;
        power = 1;
        missing = step;
    }
    for (uint64_t i = 0; i < missing && power >= kNegligible; ++i) power *= beta;
}

void AdamwClock::advance(const AdamwOptions& options) {
    ++step_;
    first_.advance(options.beta1, step_);
    second_.advance(options.beta2, step_);
}

double clipFactor(const AdamwOptions& options, double norm) {
    return options.max_norm > 0 && norm > options.max_norm ? options.max_norm / norm : 1;
}

Adamw adamwParams(const AdamwOptions& o, const AdamwClock& clock, double rate, double grad_scale, double clip) {
    Adamw p{};
    p.grad_scale = passed(grad_scale);
    p.clip = passed(clip);
    p.learning_rate = passed(rate);
    p.beta1 = passed(o.beta1);
    p.one_minus_beta1 = passed(1 - o.beta1);
    p.beta2 = passed(o.beta2);
    p.one_minus_beta2 = passed(1 - o.beta2);
    p.correction1 = passed(1 / (1 - clock.power1()));
    p.correction2 = passed(1 / (1 - clock.power2()));
    p.epsilon = passed(o.epsilon);
    p.weight_decay = passed(o.weight_decay);
    return p;
}

}  // namespace v1
}  // namespace vkmoe
