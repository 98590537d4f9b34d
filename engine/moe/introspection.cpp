#include "engine/moe/introspection.h"

#include <cmath>

namespace vkmoe {
inline namespace v1 {

void IntrospectionSums::add(const BatchFacts& batch) {
    uint32_t k = description_.top_k, experts = description_.experts;
    tokens_ += batch.tokens;
    for (uint32_t t = 0; t < batch.tokens; ++t) {
        for (uint32_t m = 0; m < k; ++m) {
            size_t a = size_t{t} * k + m;
            Sums& sums = sums_[batch.selected[a]];
            sums.tokens += 1;
            sums.gates += double(batch.gates[a]);
            uint32_t slot = batch.slot_of[a];
            sums.energy += std::ldexp(double(batch.energy[slot]), 2 * (int(batch.scale[slot]) - 127));
            sums.quiet += batch.quiet[slot];
        }
        for (uint32_t e = 0; e < experts; ++e)
            sums_[e].probability += double(batch.probabilities[size_t{t} * experts + e]);
    }
}

Introspection IntrospectionSums::result() const {
    Introspection out;
    uint64_t assignments = tokens_ * description_.top_k;
    double balance = 0;
    for (const Sums& sums : sums_) {
        ExpertStatistics& expert = out.experts.emplace_back();
        expert.tokens = sums.tokens;
        if (tokens_ != 0) expert.mean_probability = sums.probability / double(tokens_);
        if (assignments != 0) balance += double(sums.tokens) / double(assignments) * expert.mean_probability;
        if (sums.tokens == 0) continue;
        double n = double(sums.tokens);
        expert.mean_gate = sums.gates / n;
        expert.output_rms = std::sqrt(sums.energy / (n * description_.model_dim));
        expert.quiet_fraction = double(sums.quiet) / (n * description_.hidden_dim);
    }
    out.load_balance_loss = balance * description_.experts;
    return out;
}

}  // namespace v1
}  // namespace vkmoe
