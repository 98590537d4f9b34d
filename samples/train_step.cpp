// train_step: a mixture-of-experts layer that learns a task whose answer is known.
//
//     sample_train_step [auto|cpu|gpu|gpu:N]
//
// The task: turn each token into its half, with the first number's sign changed. A fresh layer takes 20 steps of AdamW.
// The losses and the checksum of the weights at the end are the same on every device.
// Exit code 0: the loss fell below a tenth, 1: it did not, or something failed, 4: no such device, or one refused.
#include <cstdio>

#include "engine/formats/moe0.h"
#include "vkmoe/layer.h"
#include "vkmoe/layer_trainer.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kSamples = 64, kModelDim = 16, kSteps = 20;

// A layer made in memory: 16 numbers a token, 4 experts of 32 hidden values, 2 of them for each token.
Result<formats::LayerSource> makeLayer() {
    VKMOE_TRY(bytes, formats::initMoe0({.model_dim = kModelDim, .hidden_dim = 32, .experts = 4, .top_k = 2}));
    return formats::readMoe0(memorySource("a fresh layer", std::move(bytes)));
}

// Numbers in [-1, 1) that are the same on every machine: the golden ratio's multiples, modulo 2.
std::vector<float> makeTokens() {
    std::vector<float> tokens(kSamples * kModelDim);
    for (uint32_t i = 0; i < tokens.size(); ++i) tokens[i] = float((i * 2654435769u) >> 8) * 0x1p-23f - 1;
    return tokens;
}

std::vector<float> makeTargets(const std::vector<float>& tokens) {
    std::vector<float> targets;
    for (uint32_t i = 0; i < tokens.size(); ++i) targets.push_back(tokens[i] * (i % kModelDim == 0 ? -0.5f : 0.5f));
    return targets;
}

// FNV-1a over the bytes of all weights.
Result<uint64_t> checksum(const formats::LayerSource& layer) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const auto& tensor : layer.tensors) {
        std::vector<std::byte> bytes(tensor.bytes);
        VKMOE_CHECK(layer.bytes->read(tensor.offset, bytes));
        for (std::byte byte : bytes) hash = (hash ^ uint64_t(byte)) * 0x100000001b3u;
    }
    return hash;
}

Result<bool> learn(Engine& engine) {
    // 1. A trainer: the layer's weights, their gradients and AdamW's moments, on the device.
    VKMOE_TRY(layer, makeLayer());
    LayerTrainerOptions options;
    options.adamw.learning_rate = 0.02;
    VKMOE_TRY(trainer, LayerTrainer::create(engine, layer, options));

    // 2. Steps: all samples at once, so an epoch is a step. The loss is half the squared error of a sample.
    std::vector<float> tokens = makeTokens(), targets = makeTargets(tokens);
    double first = 0, last = 0;
    for (uint32_t step = 0; step < kSteps; ++step) {
        VKMOE_TRY(epoch, trainer.epoch(tokens, targets));
        if (step == 0) first = epoch.loss;
        last = epoch.loss;
        std::printf("step %2u: loss %.6f, balance loss %.4f\n", step, epoch.loss, epoch.aux_loss);
    }

    // 3. The weights as they are now make a layer that can be run, or written to a file.
    VKMOE_TRY(trained, trainer.weights());
    VKMOE_TRY(sum, checksum(trained));
    VKMOE_TRY(ready, Layer::create(engine, trained));
    VKMOE_TRY(result, ready.forward(tokens));
    std::printf("token 0, its first numbers: wanted %.3f %.3f %.3f, got %.3f %.3f %.3f\n", double(targets[0]),
                double(targets[1]), double(targets[2]), double(result.output[0]), double(result.output[1]),
                double(result.output[2]));
    std::printf("the loss fell from %.4f to %.4f\nchecksum %016llx\n", first, last,
                static_cast<unsigned long long>(sum));
    return last < first / 10;
}

int fail(const Error& error) {
    std::fprintf(stderr, "train_step: %s\n", error.detail.c_str());
    return error.code == ErrorCode::no_device || error.code == ErrorCode::refused_device ? 4 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    auto engine = Engine::open({.device = argc > 1 ? argv[1] : "auto"});
    if (!engine) return fail(engine.error());
    std::printf("on %s\n", (*engine)->device().info().name.c_str());
    auto learned = learn(**engine);
    if (!learned) return fail(learned.error());
    return *learned ? 0 : 1;
}
