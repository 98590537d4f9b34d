// moe_forward: a whole mixture-of-experts layer. Tokens are routed, their experts run, the output gets a checksum.
//
//     sample_moe_forward [auto|cpu|gpu|gpu:N] [FILE.moe0]
//
// Without a file the layer is a fresh checkpoint of 8 experts. The checksum at the end is the same on every device.
// Exit code 0: done, 1: something failed, 4: no such device, or one refused.
#include <cstdio>

#include "engine/formats/moe0.h"
#include "vkmoe/layer.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kTokens = 256;

// A layer made in memory: 64 numbers a token, 8 experts of 128 hidden values, 2 of them for each token.
Result<Layer> makeLayer(Engine& engine) {
    VKMOE_TRY(bytes, formats::initMoe0({}));
    VKMOE_TRY(source, formats::readMoe0(memorySource("the default checkpoint", std::move(bytes))));
    return Layer::create(engine, source);
}

// Numbers in [-1, 1) that are the same on every machine: the golden ratio's multiples, modulo 2.
std::vector<float> makeTokens(uint32_t model_dim) {
    std::vector<float> tokens(size_t{kTokens} * model_dim);
    for (uint32_t i = 0; i < tokens.size(); ++i) tokens[i] = float((i * 2654435769u) >> 8) * 0x1p-23f - 1;
    return tokens;
}

// FNV-1a over the bytes of the numbers.
uint64_t checksum(const std::vector<float>& values) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (std::byte byte : std::as_bytes(std::span(values))) hash = (hash ^ uint64_t(byte)) * 0x100000001b3u;
    return hash;
}

void printRoutes(const Routes& routes, uint32_t tokens) {
    for (uint32_t t = 0; t < tokens; ++t) {
        std::printf("token %u:", t);
        for (uint32_t i = t * routes.top_k; i < (t + 1) * routes.top_k; ++i) {
            const char* end = (i + 1) % routes.top_k != 0 ? "," : "\n";
            std::printf(" expert %u with gate %.3f%s", routes.experts[i], double(routes.gates[i]), end);
        }
    }
}

void printLoad(const Introspection& introspection) {
    std::printf("tokens of each expert:");
    for (const auto& expert : introspection.experts)
        std::printf(" %llu", static_cast<unsigned long long>(expert.tokens));
    std::printf("\nload balance loss %.3f (1 is even)\n", introspection.load_balance_loss);
}

Result<ForwardResult> run(Engine& engine, const char* file) {
    // 1. The layer, with its weights on the device.
    VKMOE_TRY(layer, file ? Layer::open(engine, file) : makeLayer(engine));
    for (const auto& warning : layer.warnings()) std::fprintf(stderr, "moe_forward: warning: %s\n", warning.c_str());

    // 2. Tokens: rows of model_dim numbers.
    const Description& layer_is = layer.description();
    std::printf("%u experts, %u for each token, %llu bytes of weights\n", layer_is.experts, layer_is.top_k,
                static_cast<unsigned long long>(layer.weightBytes()));
    std::vector<float> tokens = makeTokens(layer_is.model_dim);

    // 3. Forward passes: the first builds the kernels, the second is timed.
    VKMOE_CHECK(layer.forward(tokens));
    return layer.forward(tokens);
}

int fail(const Error& error) {
    std::fprintf(stderr, "moe_forward: %s\n", error.detail.c_str());
    return error.code == ErrorCode::no_device || error.code == ErrorCode::refused_device ? 4 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    auto engine = Engine::open({.device = argc > 1 ? argv[1] : "auto"});
    if (!engine) return fail(engine.error());
    for (const auto& note : (*engine)->notes()) std::fprintf(stderr, "moe_forward: %s\n", note.c_str());
    std::printf("on %s\n", (*engine)->device().info().name.c_str());

    auto result = run(**engine, argc > 2 ? argv[2] : nullptr);
    if (!result) return fail(result.error());

    // 4. What happened.
    printRoutes(result->routes, 4);
    printLoad(result->introspection);
    std::printf("%llu tokens in %.3f ms\n", static_cast<unsigned long long>(result->tokens), result->seconds * 1e3);
    std::printf("checksum %016llx\n", static_cast<unsigned long long>(checksum(result->output)));
    return 0;
}
