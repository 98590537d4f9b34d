// one_dispatch: one kernel on one device. Five tokens are routed to two of four experts each, and the bits are checked.
//
//     sample_one_dispatch [auto|cpu|gpu|gpu:N]
//
// Exit code 0: the device gave the CPU's bits, 1: it did not or something failed, 4: no such device, or one refused.
#include <cstdio>
#include <cstring>

#include "host/transfer.h"
#include "vkmoe/engine.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kTokens = 5, kExperts = 4, kTopK = 2;
constexpr uint32_t kLanes = 8;  // invocations that share one token

// How well each expert suits each token.
constexpr float kLogits[kTokens][kExperts] = {
    {0, 1, 3, 2},          // 2, then 3: gates 1/(1+e^-1) = 0.731 and 0.269
    {5, 0, 0, 0},          // 0, then of the equal rest the one with the lowest index: 1
    {1, 1, 1, 1},          // no preference: 0 and 1, half each
    {-2, 4, -2, 4},        // 1 and 3, half each
    {0.5f, -1, 0.25f, 0},  // 0, then 2
};

struct Routing {
    std::vector<uint32_t> experts;  // [kTokens, kTopK] best first
    std::vector<float> gates;       // [kTokens, kTopK] a token's gates add up to 1
};

Result<Routing> route(Engine& engine) {
    // 1. Memory: the logits, room for what comes out, and two words that count gates that are not finite.
    Device& device = engine.device();
    VKMOE_TRY(logits, upload(device, kLogits, "logits"));
    VKMOE_TRY(selected, device.allocate(kTokens * kTopK * 4, Memory::device, "selected"));
    VKMOE_TRY(gates, device.allocate(kTokens * kTopK * 4, Memory::device, "gates"));
    VKMOE_TRY(status, device.allocate(8, Memory::device, "status"));

    // 2. The kernel for this kind of score. A GPU's is compared with its CPU twin before it is handed out.
    VKMOE_TRY(kernel, engine.kernel(kernels().route_topk, {.score = kSoftmaxSelected, .lanes = kLanes}));

    // 3. Its parameters: the struct of shaders/params.h, with addresses on this device.
    RouteTopk params{};
    params.logits = logits.at<F32>();
    params.selected = selected.at<U32>();
    params.gates = gates.at<F32>();
    params.status = status.at<U32>();
    params.tokens = kTokens;
    params.experts = kExperts;
    params.top_k = kTopK;

    // 4. Work is recorded, then submitted as one.
    Commands commands;
    commands.fill(status, 0, 8, 0);
    commands.barrier();
    commands.dispatch(*kernel, params, kTokens * kLanes);
    VKMOE_CHECK(submitAndWait(device, commands));

    // 5. The results come back.
    VKMOE_TRY(experts, download<uint32_t>(device, selected, kTokens * kTopK));
    VKMOE_TRY(weights, download<float>(device, gates, kTokens * kTopK));
    VKMOE_TRY(not_finite, download<uint32_t>(device, status, 1));
    if (not_finite[0] != 0) return Error{ErrorCode::bad_input, "the logits give gates that are not finite"};
    return Routing{experts, weights};
}

uint32_t differingWords(const Routing& a, const Routing& b) {
    uint32_t count = 0;
    for (size_t i = 0; i < a.experts.size(); ++i) {
        count += a.experts[i] != b.experts[i];
        count += std::memcmp(&a.gates[i], &b.gates[i], sizeof(float)) != 0;
    }
    return count;
}

int fail(const Error& error) {
    std::fprintf(stderr, "one_dispatch: %s\n", error.detail.c_str());
    return error.code == ErrorCode::no_device || error.code == ErrorCode::refused_device ? 4 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    auto engine = Engine::open({.device = argc > 1 ? argv[1] : "auto"});
    if (!engine) return fail(engine.error());
    auto cpu = Engine::open({.device = "cpu"});
    if (!cpu) return fail(cpu.error());
    auto routing = route(**engine);
    if (!routing) return fail(routing.error());
    auto expected = route(**cpu);
    if (!expected) return fail(expected.error());

    std::printf("on %s\n", (*engine)->device().info().name.c_str());
    float sum = 0;
    for (uint32_t t = 0; t < kTokens; ++t) {
        std::printf("token %u:", t);
        for (uint32_t i = t * kTopK; i < (t + 1) * kTopK; ++i) {
            const char* end = (i + 1) % kTopK != 0 ? "," : "\n";
            std::printf(" expert %u with gate %.3f%s", routing->experts[i], double(routing->gates[i]), end);
            sum += routing->gates[i];
        }
    }
    uint32_t differing = differingWords(*routing, *expected);
    std::printf("the gates of %u tokens add up to %.3f\n", kTokens, double(sum));
    std::printf("%u of %u words differ from the CPU's\n", differing, 2 * kTokens * kTopK);
    return differing == 0 ? 0 : 1;
}
