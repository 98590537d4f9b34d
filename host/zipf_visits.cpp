#include "host/zipf_visits.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace vkmoe {
inline namespace v1 {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014).
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t next() {
        uint64_t z = state_ += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
    double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
    uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }

private:
    uint64_t state_;
};

class Layer {
public:
    Layer(const ZipfOptions& options, uint32_t layer)
        : options_(options),
          random_(options.seed * 0xD1342543DE82EF95 + layer),
          expert_of_(options.experts),
          chosen_(options.experts, 0) {
        double sum = 0;
        for (uint32_t rank = 0; rank < options.experts; rank++) {
            cumulative_.push_back(sum += std::pow(rank + 1.0, -options.zipf));
            expert_of_[rank] = rank;
        }
        for (uint32_t rank = options.experts; rank > 1; rank--)
            std::swap(expert_of_[rank - 1], expert_of_[random_.below(rank)]);
    }

    const std::vector<uint32_t>& nextToken() {
        bool first = experts_.empty();
        if (options_.repeat_whole && !first && repeats()) return experts_;
        previous_.swap(experts_);
        experts_.clear();
        while (experts_.size() < options_.top_k) {
            bool again = !options_.repeat_whole && !first && repeats();
            uint32_t expert = again ? previous() : fresh();
            chosen_[expert] = 1;
            experts_.push_back(expert);
        }
        for (uint32_t expert : experts_) chosen_[expert] = 0;
        return experts_;
    }

private:
    bool repeats() { return random_.unit() < options_.repeat; }

    // One of the previous token's that this one has not; there is one: it has fewer so far.
    uint32_t previous() {
        for (;;) {
            uint32_t expert = previous_[random_.below(options_.top_k)];
            if (!chosen_[expert]) return expert;
        }
    }

    uint32_t fresh() {
        for (int tries = 0; tries < 1000; tries++) {
            auto rank = std::upper_bound(cumulative_.begin(), cumulative_.end(), random_.unit() * cumulative_.back());
            uint32_t expert = expert_of_[std::min<size_t>(rank - cumulative_.begin(), options_.experts - 1)];
            if (!chosen_[expert]) return expert;
        }
        return *std::find_if(expert_of_.begin(), expert_of_.end(), [&](uint32_t e) { return !chosen_[e]; });
    }

    const ZipfOptions& options_;
    Random random_;
    std::vector<double> cumulative_;   // by rank
    std::vector<uint32_t> expert_of_;  // by rank
    std::vector<uint8_t> chosen_;      // by expert: the token has it already
    std::vector<uint32_t> experts_, previous_;
};

}  // namespace

std::vector<Visit> zipfVisits(const ZipfOptions& options) {
    assert(options.top_k > 0 && options.top_k <= options.experts);
    std::vector<Layer> layers;
    for (uint32_t layer = 0; layer < options.layers; layer++) layers.emplace_back(options, layer);
    std::vector<Visit> visits;
    visits.reserve(uint64_t{options.tokens} * options.layers);
    for (uint32_t token = 0; token < options.tokens; token++)
        for (uint32_t layer = 0; layer < options.layers; layer++) {
            Visit visit{.group = layer, .pages = layers[layer].nextToken()};
            for (PageId& page : visit.pages) page += layer * options.experts;
            visits.push_back(std::move(visit));
        }
    return visits;
}

}  // namespace v1
}  // namespace vkmoe
