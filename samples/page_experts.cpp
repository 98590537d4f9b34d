// page_experts: a stack of layers whose experts do not fit in memory, and the bits of one whose do.
//
//     sample_page_experts [auto|cpu|gpu|gpu:N] [FILE] [PERCENT]
//
// PERCENT of the experts' pages have room in memory (default 25), a third of them on the device; the rest is read from
// the file as tokens need it. Without a file the stack is four fresh checkpoints of 8 experts, held in memory.
// Exit code 0: done, 1: something failed or the bits differ, 4: no such device, or one refused.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine/formats/model_source.h"
#include "engine/formats/moe0.h"
#include "vkmoe/stack.h"

using namespace vkmoe;

namespace {

constexpr uint32_t kTokens = 64;

// Four layers, each a checkpoint of its own seed: 64 numbers a token, 8 experts, 2 of them for each token.
Result<formats::ModelSource> makeModel() {
    formats::ModelSource model;
    model.stack = true;
    for (uint32_t seed = 1; seed <= 4; ++seed) {
        VKMOE_TRY(bytes, formats::initMoe0({}, seed));
        VKMOE_TRY(layer, formats::readMoe0(memorySource("a fresh checkpoint", std::move(bytes))));
        model.layers.push_back(std::move(layer));
    }
    return model;
}

// Numbers in [-1, 1) that are the same on every machine: the golden ratio's multiples, modulo 2.
std::vector<float> makeTokens(uint32_t model_dim) {
    std::vector<float> tokens(size_t{kTokens} * model_dim);
    for (uint32_t i = 0; i < tokens.size(); ++i) tokens[i] = float((i * 2654435769u) >> 8) * 0x1p-23f - 1;
    return tokens;
}

// Memory for some of the experts: a third of it on the device, the rest on the host where the device can read it.
PagingOptions budgetsFor(const Stack& unpaged, uint64_t percent) {
    uint64_t bytes = 0, page = 0;
    for (const Layer& layer : unpaged.layers()) {
        bytes += layer.pageBytes() * layer.description().experts;
        page = std::max(page, layer.pageBytes());
    }
    uint64_t room = std::max(bytes * percent / 100, page);
    return {.device_budget = room / 3, .host_budget = room - room / 3};
}

void printPaging(const StackResult& result) {
    const PagingReport& report = *result.paging;
    const PagerCounters& count = report.counters;
    auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf("%llu experts of %llu bytes, room for %llu\n", number(report.pages), number(report.page_bytes),
                number(report.device_slots + report.host_slots));
    std::printf("uses: %llu on the device, %llu on the host, %llu read from the file (%llu bytes, %llu evictions)\n",
                number(count.tier1), number(count.tier2), number(count.tier3), number(count.bytes_read),
                number(count.evictions));
    std::printf("read ahead: %llu, of which used: %llu; policy %s; the host waited %llu times for the device\n",
                number(count.prefetched), number(count.prefetch_used), name(report.policy), number(result.host_waits));
}

// True if the paged stack gives the bits of the one that is all in memory.
Result<bool> run(Engine& engine, const char* file, uint64_t percent) {
    // 1. The model, all of it on the device: what the paged one is compared with.
    VKMOE_TRY(model, file ? formats::openModel(file) : makeModel());
    VKMOE_TRY(unpaged, Stack::create(engine, model));
    std::vector<float> tokens = makeTokens(unpaged.modelDim());
    VKMOE_TRY(expected, unpaged.forward(tokens));

    // 2. The same with room for some of its experts.
    VKMOE_TRY(paged, Stack::create(engine, model, budgetsFor(unpaged, percent)));

    // 3. Token by token, as a model writes; then all at once, in waves where they need more experts than there is room.
    VKMOE_TRY(decoded, paged.forward(tokens, {.max_batch = 1}));
    std::printf("token by token: %.3f ms\n", decoded.seconds * 1e3);
    printPaging(decoded);
    VKMOE_TRY(together, paged.forward(tokens));
    std::printf("all at once: %.3f ms in %llu waves\n", together.seconds * 1e3,
                static_cast<unsigned long long>(together.paging->counters.waves));

    // 4. The bits.
    auto same = [&](const StackResult& result) {
        return std::memcmp(result.output.data(), expected.output.data(), tokens.size() * 4) == 0;
    };
    return same(decoded) && same(together);
}

int fail(const Error& error) {
    std::fprintf(stderr, "page_experts: %s\n", error.detail.c_str());
    return error.code == ErrorCode::no_device || error.code == ErrorCode::refused_device ? 4 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    auto engine = Engine::open({.device = argc > 1 ? argv[1] : "auto"});
    if (!engine) return fail(engine.error());
    for (const auto& note : (*engine)->notes()) std::fprintf(stderr, "page_experts: %s\n", note.c_str());
    std::printf("on %s\n", (*engine)->device().info().name.c_str());
    auto same = run(**engine, argc > 2 ? argv[2] : nullptr, argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 25);
    if (!same) return fail(same.error());
    std::printf("%s\n", *same ? "the same bits as all in memory" : "THE BITS DIFFER");
    return *same ? 0 : 1;
}
