// The oracle of optimisers and of the reference engine's layer trainer.
#pragma once

#include <map>

#include "tests/train/oracle.h"

namespace test {

struct AdamwOptions {
    double lr = 0.01, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
};

// Decay is decoupled; nothing is clipped. State belongs to positions in the list of tensors, which must not change.
class OracleAdamw {
public:
    explicit OracleAdamw(const AdamwOptions& options) : options_(options) {}

    void step(const std::vector<Doubles*>& parameters, const std::vector<Doubles*>& gradients);
    uint64_t steps() const { return steps_; }

private:
    AdamwOptions options_;
    uint64_t steps_ = 0;
    double power1_ = 1, power2_ = 1;  // beta^steps
    std::vector<Doubles> first_, second_;
};

// Sums of half the squared error over elements; the gradient is output - target.
double oracleSquaredError(const Doubles& output, const Doubles& target, Doubles& grad);

// What the gradient of the balance loss is multiplied with besides its weight: `mean` takes the batch's mean once, as
// the task's gradient does; `reference` divides by the batch's size once more, as the reference engine does.
enum class AuxScale { reference, mean };

struct LayerTrainOptions {
    AdamwOptions adamw = {};
    double aux_weight = 0.01;
    uint32_t batch = 0, epochs = 1;  // batch 0: all samples
    AuxScale aux_scale = AuxScale::reference;
};

struct EpochResult {
    double loss = 0;      // mean over samples of half the squared error's sum over elements
    double aux_loss = 0;  // balance loss of the last batch, without its weight
};

// Epochs over samples in their order; the last batch may be short. `optimizer` keeps its state between calls.
std::vector<EpochResult> oracleTrain(ReferenceLayer& layer, OracleAdamw& optimizer, const Doubles& inputs,
                                     const Doubles& targets, const LayerTrainOptions& options);

// A layer of the reference engine: relu, a plain shared expert first, up and down biases, softmax over the chosen.
struct MoeShape {
    uint32_t model_dim = 64, hidden_dim = 128, experts = 8, top_k = 2;

    vkmoe::Description description() const;
    ReferenceLayer zeros() const;
    uint64_t parameters() const;
};

// All tensors in canonical order, and back from `flat`, where `position` moves on past the layer's numbers.
Doubles flatten(ReferenceLayer& layer);
void unflatten(const Doubles& flat, ReferenceLayer& layer, size_t& position);

// The reference engine's cold start, rounded to f32: seed 0 means 1.
void initMoe(ReferenceLayer& layer, uint32_t seed);

// Its random numbers.
class OracleRandom {
public:
    explicit OracleRandom(uint32_t seed) : state_(seed == 0 ? 1 : seed) {}
    double uniform();                 // [0, 1)
    double normal(double deviation);  // rounded to f32

private:
    uint32_t state_;
};

}  // namespace test
