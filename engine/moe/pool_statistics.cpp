#include "vkmoe/pool_statistics.h"

#include <algorithm>
#include <numeric>

namespace vkmoe {
inline namespace v1 {

PoolStatistics::PoolStatistics(uint32_t experts) : totals_(experts) {
    for (uint32_t e = 0; e < experts; ++e) names_.push_back("expert_" + std::to_string(e));
}

void PoolStatistics::add(std::span<const Sums> call, uint64_t call_tokens, uint32_t hidden_dim) {
    for (size_t e = 0; e < totals_.size(); ++e) {
        totals_[e].tokens += call[e].tokens;
        totals_[e].magnitude += call[e].magnitude;
        totals_[e].sparsity += double(call[e].quiet) / hidden_dim;
    }
    last_call_ = call_tokens;
}

void PoolStatistics::reset() { std::fill(totals_.begin(), totals_.end(), Totals{}); }

PoolIntrospection PoolStatistics::introspect() const {
    PoolIntrospection out;
    size_t idle = 0;
    for (size_t e = 0; e < totals_.size(); ++e) {
        double n = double(std::max<uint64_t>(totals_[e].tokens, 1));
        out.experts.push_back({e < names_.size() ? names_[e] : "?", totals_[e].tokens, totals_[e].magnitude / n,
                               totals_[e].sparsity / n, 0});
        idle += totals_[e].tokens == 0;
    }
    out.top_contributors.resize(totals_.size());
    std::iota(out.top_contributors.begin(), out.top_contributors.end(), 0u);
    std::stable_sort(out.top_contributors.begin(), out.top_contributors.end(), [&](uint32_t a, uint32_t b) {
        return out.experts[a].avg_output_magnitude > out.experts[b].avg_output_magnitude;
    });
    out.total_tokens = last_call_;
    out.activation_sparsity = double(idle) / double(totals_.size());
    return out;
}

}  // namespace v1
}  // namespace vkmoe
