#include "engine/moe/introspection.h"

#include <cmath>

namespace vkmoe {
inline namespace v1 {

void IntrospectionSums::add(const BatchFacts& batch) {
    uint32_t experts = description_.experts;
    tokens_ += batch.tokens;
    for (size_t a = 0; a < batch.selected.size(); ++a) {
        if (batch.selected[a] >= experts) continue;  // skipped
        Sums& sums = sums_[batch.selected[a]];
        sums.listed += 1;
        ++assignments_;
        if (description_.dispatch == Dispatch::capacity && batch.gates[a] <= 0) continue;  // padding
        uint32_t slot = batch.slot_of[a];
        double energy = std::ldexp(double(batch.energy[slot]), 2 * (int(batch.scale[slot]) - 127));
        sums.tokens += 1;
        sums.gates += double(batch.gates[a]);
        sums.energy += energy;
        sums.magnitude += std::sqrt(energy / description_.model_dim);
        sums.quiet += batch.quiet[slot];
    }
    for (size_t i = 0; i < size_t{batch.tokens} * experts; ++i)
        sums_[i % experts].probability += double(batch.probabilities[i]);
}

std::vector<PoolStatistics::Sums> IntrospectionSums::pool() const {
    std::vector<PoolStatistics::Sums> out;
    for (const Sums& sums : sums_) out.push_back({sums.tokens, sums.quiet, sums.magnitude});
    return out;
}

Introspection IntrospectionSums::result() const {
    Introspection out;
    double balance = 0;
    for (const Sums& sums : sums_) {
        ExpertStatistics& expert = out.experts.emplace_back();
        expert.tokens = sums.tokens;
        if (tokens_ != 0) expert.mean_probability = sums.probability / double(tokens_);
        if (assignments_ != 0) balance += double(sums.listed) / double(assignments_) * expert.mean_probability;
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
