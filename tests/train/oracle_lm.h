// The oracle of EvermindLM: forward, backward, trainer (without mixed precision) and sampler in double.
#pragma once

#include "tests/train/oracle_trainer.h"

namespace test {

struct LmShape {
    uint32_t vocab = 0, model_dim = 64, layers = 2, kernel = 3, hidden_dim = 128, experts = 4, top_k = 2;

    MoeShape moe() const { return {model_dim, hidden_dim, experts, top_k}; }
};

struct OracleLmLayer {
    Doubles conv;       // [model_dim, kernel]
    Doubles norm_conv;  // [model_dim]
    Doubles norm_moe;   // [model_dim]
    ReferenceLayer moe;
};

struct OracleLm {
    LmShape shape;
    Doubles embedding;  // [vocab, model_dim], also the head
    std::vector<OracleLmLayer> layers;
};

OracleLm zeroLm(const LmShape& shape);
// The reference engine's cold start.
OracleLm initLm(const LmShape& shape, uint32_t seed = 0x45564c4d);

// All tensors in the order of its files: "token_embedding.weight", then for each layer "layers.0.conv.weight",
// "layers.0.norm_conv.weight", "layers.0.norm_moe.weight" and "layers.0.moe." + the names of a layer file.
std::vector<std::pair<std::string, Doubles*>> parametersOf(OracleLm& lm);
Doubles flatten(OracleLm& lm);
void unflatten(const Doubles& flat, OracleLm& lm);

struct LmLayerTape {
    Doubles in;                 // [tokens, model_dim]
    Doubles rms_conv, rms_moe;  // [tokens]
    Doubles normed;             // [tokens, model_dim], what the convolution sees
    Doubles after_conv;         // [tokens, model_dim]
    OracleForward moe;
};

struct LmForward {
    std::vector<uint32_t> tokens;
    std::vector<LmLayerTape> layers;
    Doubles final_x;                                        // [tokens, model_dim]
    Doubles logits;                                         // [tokens, vocab]
    double smallest_margin = 1e30, smallest_corner = 1e30;  // of all layers
};

LmForward lmForward(const OracleLm& lm, const std::vector<uint32_t>& tokens);

// Cross-entropy of one row of logits; grad: softmax minus one at the target.
double oracleCrossEntropy(const Doubles& logits, uint32_t target, Doubles& grad);

// Mean loss of the next token over a sequence, whose gradients are added to `grad` (a zeroLm); 0 below two tokens.
double lmBackward(const OracleLm& lm, const std::vector<uint32_t>& tokens, OracleLm& grad);

struct LmTrainOptions {
    AdamwOptions adamw = {};
    uint32_t epochs = 1, accumulate = 1;  // sequences a step
};

// Mean loss of each epoch's sequences of two tokens or more.
Doubles lmTrain(OracleLm& lm, OracleAdamw& optimizer, const std::vector<std::vector<uint32_t>>& sequences,
                const LmTrainOptions& options);

struct GenerateOptions {
    uint32_t count = 1;
    double temperature = 0;  // 0: the best, the lower id of equals
    uint32_t seed = 1;
    int64_t stop = -1;  // ends the text and is part of it
};

struct Generated {
    std::vector<uint32_t> ids;
    double smallest_margin = 1e30;  // of a choice: of the logits, or of the random number times the sum
};

Generated lmGenerate(const OracleLm& lm, std::vector<uint32_t> prompt, const GenerateOptions& options);

}  // namespace test
