// Checks of training against the reference engine's recordings, for whatever computed: the oracle or an engine.
//
// Tensors go by their names in layer files ("experts.3.up.weight"), those of a language model as parametersOf(OracleLm)
// tells. Differences are measured against the largest magnitude of the recorded tensor; NaN never passes.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "tests/golden/golden.h"
#include "tests/train/oracle_lm.h"

namespace test {

using vkmoe::tests::Golden;
using NamedTensors = std::map<std::string, std::vector<float>>;

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

// Of a layer ("moe/...") and of a language model ("lm/...").
MoeShape moeShapeOf(const Golden& golden);
LmShape lmShapeOf(const Golden& golden);

// What a case starts from, in canonical order: its file, or a cold start that is checked against the recorded digest.
std::vector<float> startOf(const Golden& golden);
// The parameters of a recorded file, MoE0 or EVL0 in float32.
std::vector<float> parametersOfFile(const Golden& golden, const std::string& file);

// Flat parameters or gradients of a case, by name, and back in canonical order.
NamedTensors named(const Golden& golden, const std::vector<float>& flat);
std::vector<float> flat(const Golden& golden, const NamedTensors& tensors);

// A layer's gradients of sum(dOutput * output) over the case's tokens; `grad_input` [tokens, model_dim].
void checkGradients(const Golden& golden, const NamedTensors& grads, const std::vector<float>& grad_input,
                    const Tolerance& tolerance = {});
// The balance loss's gradient alone, with the recorded "dispatchFraction" and "auxScale", of router.weight.
void checkAuxGradient(const Golden& golden, const std::vector<float>& grad_router, const Tolerance& tolerance = {});

// The options of a run: "train_full", "train_mini"; of a language model "train_plain", "train_decay", ...
LayerTrainOptions trainOptionsOf(const Golden& golden, const std::string& run);
LmTrainOptions lmTrainOptionsOf(const Golden& golden, const std::string& run);
std::vector<std::vector<uint32_t>> sequencesOf(const Golden& golden);

// The curves of a run, and the weights it ends with, where recorded. `aux_losses` is empty for a language model.
void checkTraining(const Golden& golden, const std::string& run, const Doubles& losses, const Doubles& aux_losses,
                   const NamedTensors& weights, const Tolerance& tolerance = {});

// A language model's gradients of the loss over "tokens", and its logits [tokens, vocab].
void checkLmGradients(const Golden& golden, double loss, const NamedTensors& grads, const Tolerance& tolerance = {});
void checkLogits(const Golden& golden, const std::vector<float>& logits, const Tolerance& tolerance = {});

// The recorded texts of "generate_untrained" or "generate_trained", each with its options.
struct GoldenText {
    std::string name;
    std::vector<uint32_t> prompt, ids;
    GenerateOptions options;
};
std::vector<GoldenText> textsOf(const Golden& golden, const std::string& state);

// The optimiser's case: start, gradients of a step (from 0), and what its parameters must be after it.
std::vector<float> adamwStart();
std::vector<float> adamwGradient(uint32_t step);
AdamwOptions adamwOptionsOf(const std::string& variant);
void checkAdamw(const std::string& variant, uint32_t step, const std::vector<float>& parameters, double tolerance);

// Building blocks: the largest difference (infinite if a number is NaN or a size differs), and a share's largest.
double largestOf(std::span<const float> values);
double worstDifference(std::span<const float> got, std::span<const float> want);
double percentileDifference(std::span<const float> got, std::span<const float> want, double share);

Doubles widened(const std::vector<float>& values);
std::vector<float> narrowed(const Doubles& values);
NamedTensors narrowed(const std::vector<std::pair<std::string, Doubles*>>& tensors);

}  // namespace test
