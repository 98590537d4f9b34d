// What the reference engine's recordings of training start from, and how they went on.
//
// Tensors go by their names in layer files ("experts.3.up.weight"), those of a language model as parametersOf(OracleLm)
// tells.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/golden/golden.h"
#include "tests/train/oracle_lm.h"

namespace test {

using vkmoe::tests::Golden;
using NamedTensors = std::map<std::string, std::vector<float>>;

bool isLm(const Golden& golden);

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

// The names of a case's parameters in canonical order, each with its number of elements.
std::vector<std::pair<std::string, size_t>> layoutOf(const Golden& golden);

// The options of a run: "train_full", "train_mini"; of a language model "train_plain", "train_decay", ...
LayerTrainOptions trainOptionsOf(const Golden& golden, const std::string& run);
LmTrainOptions lmTrainOptionsOf(const Golden& golden, const std::string& run);
std::vector<std::vector<uint32_t>> sequencesOf(const Golden& golden);

// The recorded texts of "generate_untrained" or "generate_trained", each with its options.
struct GoldenText {
    std::string name;
    std::vector<uint32_t> prompt, ids;
    GenerateOptions options;
};
std::vector<GoldenText> textsOf(const Golden& golden, const std::string& state);

// The optimiser's case: start, gradients of a step (from 0), all tensors one after the other.
std::vector<float> adamwStart();
std::vector<float> adamwGradient(uint32_t step);
AdamwOptions adamwOptionsOf(const std::string& variant);  // "defaults", "decay", "betas"

// To doubles and to floats.
Doubles widened(const std::vector<float>& values);
std::vector<float> narrowed(const Doubles& values);
NamedTensors narrowed(const std::vector<std::pair<std::string, Doubles*>>& tensors);

}  // namespace test
