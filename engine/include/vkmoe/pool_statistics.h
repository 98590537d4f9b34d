// PoolStatistics: what a layer's experts have done since they were last reset, over all calls: titan-synapse's expert
// pool introspection.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace vkmoe {
inline namespace v1 {

struct PoolExpert {
    std::string name;
    uint64_t tokens_processed = 0;
    double avg_output_magnitude = 0;     // mean over its tokens of sqrt(mean of y^2)
    double avg_activation_sparsity = 0;  // mean share of hidden values with |h| < 0.01
    double specialization_score = 0;     // as in the original: always 0
};

struct PoolIntrospection {
    std::vector<PoolExpert> experts;
    std::vector<uint32_t>
        top_contributors;            // all experts by avg_output_magnitude, largest first, ties to the lower index
    uint64_t total_tokens = 0;       // of the last call only
    double activation_sparsity = 0;  // share of experts that processed no token
};

class PoolStatistics {
public:
    explicit PoolStatistics(uint32_t experts);

    // Replaces all names; an expert without one is called "?". Default: "expert_0", "expert_1", ...
    void setNames(std::vector<std::string> names) { names_ = std::move(names); }

    // One call's sums per expert.
    struct Sums {
        uint64_t tokens = 0, quiet = 0;  // quiet: hidden values with |h| < 0.01
        double magnitude = 0;            // sum over tokens of sqrt(mean of y^2)
    };
    void add(std::span<const Sums> call, uint64_t call_tokens, uint32_t hidden_dim);
    void reset();

    PoolIntrospection introspect() const;

private:
    struct Totals {
        uint64_t tokens = 0;
        double magnitude = 0, sparsity = 0;
    };
    std::vector<std::string> names_;
    std::vector<Totals> totals_;
    uint64_t last_call_ = 0;
};

}  // namespace v1
}  // namespace vkmoe
