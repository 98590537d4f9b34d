// Trained: weights on a device and the ParameterSet that trains them, filled and read by the host.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/train/parameter_set.h"
#include "tests/bits.h"

namespace test {

// Sizes of the tensors of each slab; positions count through. With pages, every tensor is one.
struct TrainedShape {
    std::vector<std::vector<uint32_t>> slabs;
    uint32_t gap = 0;               // words of zero between tensors
    std::vector<uint32_t> touched;  // of the pages of the first slab; empty: none is left out
    vkmoe::Shard shard = {};
};

class Trained {
public:
    // `values`: of all tensors, one after the other.
    Trained(vkmoe::Engine& engine, const TrainedShape& shape, const std::vector<float>& values);

    vkmoe::ParameterSet& set() { return *set_; }
    std::vector<float> weights();
    void setGrads(const std::vector<float>& values);
    vkmoe::GradNorm norm(float scale = 1);
    vkmoe::Result<void> step(const vkmoe::AdamwOptions& options, double grad_scale = 1, double clip = 1);

private:
    void submit(const vkmoe::Commands& commands);
    vkmoe::Engine* engine_;
    std::vector<vkmoe::Buffer> weights_;
    vkmoe::Buffer touched_;
    std::optional<vkmoe::ParameterSet> set_;
};

// The inputs of the recorded cases: a sequence of numbers of 16 bits in [-1, 1).
std::vector<float> sequence(uint32_t seed, size_t count);

}  // namespace test
