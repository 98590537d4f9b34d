#include "engine/models/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace vkmoe {
inline namespace v1 {

// Exponentials are doubles rounded to f32 once: libraries differ in a double's last bit, not after that.
uint32_t Sampler::next(std::span<const float> logits) {
    if (!(temperature_ > 0)) return uint32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
    double largest = -INFINITY, sum = 0;
    for (float logit : logits) largest = std::max(largest, double(logit) / temperature_);
    std::vector<float> weights(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) {
        weights[i] = float(std::exp(double(logits[i]) / temperature_ - largest));
        sum += double(weights[i]);
    }
    double rest = draws_.uniform() * sum;
    for (size_t i = 0; i < logits.size(); ++i) {
        rest -= double(weights[i]);
        if (rest <= 0) return uint32_t(i);
    }
    return uint32_t(logits.size() - 1);
}

}  // namespace v1
}  // namespace vkmoe
