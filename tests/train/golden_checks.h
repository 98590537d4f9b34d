// Checks of training against the reference engine's recordings, for whatever computed: the oracle or an engine.
//
// Tensors go by the names that golden_cases.h tells. Differences are measured against the largest magnitude of the
// recorded tensor; NaN never passes.
#pragma once

#include <span>
#include <string>

#include "tests/train/golden_cases.h"

namespace test {

struct Tolerance {
    double gradients = 2e-6;  // of the largest magnitude
    double losses = 2e-5;     // relative
    double weights = 1e-5;    // of the largest magnitude, in 999 of 1000
    // Some runs magnify rounding: spreadOf tells how much. Where this many spreads are more than the above, they count.
    double spreads = 4;
};

// What a change of each starting weight by up to half a unit of its last place does to a run of the oracle: the largest
// of `kSpreadRuns` such runs. Recorded for runs where it matters ("RUN:lossSpread"), and taken as 0 for the others.
struct Spread {
    Doubles losses;      // [epochs], relative
    double weights = 0;  // of the largest magnitude, in 999 of 1000
};
constexpr uint32_t kSpreadRuns = 8;
Spread spreadOf(const Golden& golden, const std::string& run);

// A layer's gradients of sum(dOutput * output) over the case's tokens; `grad_input` [tokens, model_dim].
void checkGradients(const Golden& golden, const NamedTensors& grads, const std::vector<float>& grad_input,
                    const Tolerance& tolerance = {});
// The balance loss's gradient alone, with the recorded "dispatchFraction" and "auxScale", of router.weight.
void checkAuxGradient(const Golden& golden, const std::vector<float>& grad_router, const Tolerance& tolerance = {});

// The curves of a run, and the weights it ends with, where recorded. `aux_losses` is empty for a language model.
// Without a `spread` that the caller measured, the recorded one counts.
void checkTraining(const Golden& golden, const std::string& run, const Doubles& losses, const Doubles& aux_losses,
                   const NamedTensors& weights, const Tolerance& tolerance = {}, const Spread* spread = nullptr);

// The weights after each epoch of a small layer's run ("RUN:weights_per_epoch"), as checkTraining does.
bool hasEpochs(const Golden& golden, const std::string& run);
void checkEpoch(const Golden& golden, const std::string& run, uint32_t epoch, const NamedTensors& weights,
                const Tolerance& tolerance = {});

// A language model's gradients of the loss over "tokens", and its logits [tokens, vocab].
void checkLmGradients(const Golden& golden, double loss, const NamedTensors& grads, const Tolerance& tolerance = {});
void checkLogits(const Golden& golden, const std::vector<float>& logits, const Tolerance& tolerance = {});

// The parameters of the optimiser's case after a step (from 0).
void checkAdamw(const std::string& variant, uint32_t step, const std::vector<float>& parameters, double tolerance);

// Building blocks: the largest difference (infinite if a number is NaN or a size differs), and a share's largest.
double largestOf(std::span<const float> values);
double worstDifference(std::span<const float> got, std::span<const float> want);
double percentileDifference(std::span<const float> got, std::span<const float> want, double share);

}  // namespace test
