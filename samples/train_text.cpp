// train_text: a small language model learns a text file, byte by byte, and then writes.
//
//     sample_train_text [auto|cpu|gpu|gpu:N] [FILE] [STEPS]
//
// Without a file it learns this program's own poem. The checksum of the sample is the same on every device.
// Exit code 0: done, 1: something failed, 4: no such device, or one refused.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/formats/evl0.h"
#include "vkmoe/language_model.h"
#include "vkmoe/layer.h"
#include "vkmoe/lm_trainer.h"
#include "vkmoe/text_codec.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kContext = 48, kBatch = 8;
const char* kPoem =
    "One expert reads the colour, one the sound,\n"
    "a router sends each token where to go;\n"
    "and on whatever device they are found,\n"
    "the sums are added in the order that they know.\n";

Result<std::string> readText(const char* path) {
    if (path == nullptr) return std::string(kPoem);
    VKMOE_TRY(bytes, readFile(path));
    std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.size() > kContext) return text;
    return Error{ErrorCode::bad_input, std::string(path) + ": is too short"};
}

// A model's parameters, and where they are, as every part of the engine takes them.
Result<formats::LmSource> asSource(const LmConfig& config, const std::vector<float>& parameters) {
    VKMOE_TRY(bytes, formats::writeEvl0(config, parameters));
    return formats::readEvl0(memorySource("the model", std::move(bytes)));
}

// Sequences that start anywhere in the text.
std::vector<Sequence> draw(const std::vector<uint32_t>& tokens, uint64_t& random) {
    std::vector<Sequence> batch;
    for (uint32_t i = 0; i < kBatch; ++i) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        auto at = tokens.begin() + ptrdiff_t((random >> 33) % (tokens.size() - kContext + 1));
        batch.emplace_back(at, at + kContext);
    }
    return batch;
}

Result<std::vector<float>> learn(Engine& engine, const LmConfig& config, const std::vector<uint32_t>& tokens,
                                 unsigned steps) {
    VKMOE_TRY(fresh, formats::initialLm(config));
    VKMOE_TRY(source, asSource(config, fresh));
    LmTrainerOptions options;
    options.adamw.learning_rate = 0.01;
    options.adamw.max_norm = 1;
    options.max_tokens = kContext * kBatch;
    VKMOE_TRY(trainer, LmTrainer::create(engine, source, options));
    uint64_t random = 1;
    for (unsigned step = 1; step <= steps; ++step) {
        std::vector<std::vector<Sequence>> micro_batches = {draw(tokens, random)};
        VKMOE_TRY(done, trainer.step(micro_batches));
        if (step % 20 == 0 || step == 1)
            std::printf("step %3u: loss %.4f, %.0f tokens/s\n", step, done.loss, double(done.tokens) / done.seconds);
    }
    return trainer.parameters();
}

Result<void> run(Engine& engine, const char* file, unsigned steps) {
    // 1. Text to tokens.
    VKMOE_TRY(text, readText(file));
    ByteCodec codec;
    std::vector<uint32_t> tokens = codec.encode(text);

    // 2. A model of two layers, each with four experts of which a token visits two, and its training.
    LmConfig config = completed({.vocab_size = codec.vocabSize(), .model_dim = 32, .conv_kernel = 8});
    std::printf("%llu parameters, %zu tokens\n", static_cast<unsigned long long>(parameterCount(config)),
                tokens.size());
    VKMOE_TRY(parameters, learn(engine, config, tokens, steps));

    // 3. What it writes, token by token.
    VKMOE_TRY(source, asSource(config, parameters));
    VKMOE_TRY(model, LanguageModel::create(engine, source));
    StreamDecoder decoder(codec);
    uint64_t hash = 0xcbf29ce484222325u;
    GenerateOptions options{.max_new_tokens = 160};
    options.on_token = [&](uint32_t token) {
        hash = (hash ^ token) * 0x100000001b3u;
        return std::fputs(decoder.put(token).c_str(), stdout) >= 0;
    };
    const std::vector<uint32_t> prompt(tokens.begin(), tokens.begin() + 3);
    std::printf("\n%s", codec.decode(prompt).c_str());
    VKMOE_CHECK(model.generate(prompt, options));
    std::printf("%s\n\nchecksum %016llx\n", decoder.finish().c_str(), static_cast<unsigned long long>(hash));
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    auto engine = Engine::open({.device = argc > 1 ? argv[1] : "auto"});
    auto done = engine ? run(**engine, argc > 2 ? argv[2] : nullptr, argc > 3 ? unsigned(std::atoi(argv[3])) : 200)
                       : Result<void>(engine.error());
    if (done) return 0;
    std::fprintf(stderr, "train_text: %s\n", done.error().detail.c_str());
    const ErrorCode code = done.error().code;
    return code == ErrorCode::no_device || code == ErrorCode::refused_device ? 4 : 1;
}
