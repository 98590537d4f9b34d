// Memory that runs out: every allocation of the calling thread fails once, in turn. The call throws std::bad_alloc, or
// gives an error, or the right bits; nothing ends the process, and the device has everything back.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "engine/formats/evl0.h"
#include "engine/formats/model_source.h"
#include "tests/moe/random_layer.h"
#include "vkmoe/language_model.h"
#include "vkmoe/layer_trainer.h"
#include "vkmoe/stack.h"

namespace {

thread_local long before_failure = -1;  // allocations; -1: none fails
thread_local bool failed = false;

}  // namespace

void* operator new(size_t bytes) {
    if (before_failure >= 0 && before_failure-- == 0) {
        failed = true;
        throw std::bad_alloc();
    }
    void* memory = std::malloc(bytes == 0 ? 1 : bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

using namespace vkmoe;

namespace {

bool all_right = true;

void check(bool right, const char* what, long allocation, const char* wrong) {
    if (right) return;
    std::printf("%s: allocation %ld fails: %s\n", what, allocation, wrong);
    all_right = false;
}

// `body` tells whether it gave the right bits, or an error.
enum class Outcome { right, wrong, error };
template <class Body>
void eachAllocation(const char* what, Engine& engine, const Body& body) {
    long count = 0, thrown = 0;
    for (bool all = false; !all; ++count) {
        failed = false;
        before_failure = count;
        try {
            const Outcome outcome = body();
            before_failure = -1;
            all = !failed;
            check(outcome != Outcome::wrong, what, count, "other bits");
            check(failed || outcome == Outcome::right, what, count, "an error without a reason");
        } catch (const std::bad_alloc&) {
            before_failure = -1;
            ++thrown;
        }
        check(engine.device().ledger().used() == 0, what, count, "memory stays allocated");
    }
    std::printf("%s: %ld allocations, %ld threw\n", what, count - 1, thrown);
}

formats::ModelSource twoLayers() {
    const Description d{.model_dim = 48, .hidden_dim = 40, .experts = 10, .top_k = 2, .renormalize = true};
    formats::ModelSource model;
    model.stack = true;
    for (uint32_t i = 0; i < 2; ++i) model.layers.push_back(test::makeRandomLayer(d, WeightFormat::f16, 70 + i).source);
    return model;
}

template <class T>
Outcome compare(const std::vector<T>& got, const std::vector<T>& wanted) {
    bool same = got.size() == wanted.size() && std::memcmp(got.data(), wanted.data(), got.size() * sizeof(T)) == 0;
    return same ? Outcome::right : Outcome::wrong;
}

void stacks(Engine& engine, const formats::ModelSource& model) {
    const auto x = test::randomTokens(5, 48, 3);
    std::vector<float> wanted;
    const auto run = [&](Result<Stack> stack) {
        if (!stack) return Outcome::error;
        auto result = stack->forward(x, {.max_batch = 1});
        if (!result) return Outcome::error;
        if (wanted.empty()) wanted = result->output;
        return compare(result->output, wanted);
    };
    run(Stack::create(engine, model));
    eachAllocation("a stack", engine, [&] { return run(Stack::create(engine, model)); });
    const PagingOptions some{.device_budget = 0, .host_budget = 60000};
    eachAllocation("a stack in pages", engine, [&] { return run(Stack::create(engine, model, some)); });
}

void texts(Engine& engine) {
    const LmConfig config{
        .vocab_size = 40, .model_dim = 24, .layers = 2, .conv_kernel = 4, .hidden_dim = 32, .experts = 6, .top_k = 2};
    const auto parameters = formats::initialLm(config, 5).value();
    const auto file =
        formats::readEvl0(memorySource("model.evl0", formats::writeEvl0(config, parameters).value())).value();
    const std::vector<uint32_t> prompt{3, 1, 4, 1, 5};
    std::vector<uint32_t> wanted;
    const auto write = [&] {
        auto model = LanguageModel::create(engine, file, PagingOptions{.device_budget = 0, .host_budget = 60000});
        if (!model) return Outcome::error;
        auto text = model->generate(prompt, {.max_new_tokens = 4});
        if (!text) return Outcome::error;
        if (wanted.empty()) wanted = *text;
        return compare(*text, wanted);
    };
    write();
    eachAllocation("a text in pages", engine, write);
}

void training(Engine& engine, const formats::LayerSource& layer) {
    const auto x = test::randomTokens(5, 48, 3);
    std::optional<double> wanted;
    const auto train = [&](const LayerTrainerOptions& options) {
        auto trainer = LayerTrainer::create(engine, layer, options);
        if (!trainer) return Outcome::error;
        auto epoch = trainer->epoch(x, x, {.batch_size = 2});
        if (!epoch) return Outcome::error;
        if (!wanted) wanted = epoch->loss;
        return epoch->loss == *wanted ? Outcome::right : Outcome::wrong;
    };
    train({});
    eachAllocation("training", engine, [&] { return train({}); });
    LayerTrainerOptions paged;
    paged.paging = TrainingPaging{.device_budget = 60000, .host_budget = 60000};
    eachAllocation("training in pages", engine, [&] { return train(paged); });
}

}  // namespace

int main() {
    const auto engine = std::move(Engine::open({.device = "cpu"})).value();
    const auto model = twoLayers();
    stacks(*engine, model);
    texts(*engine);
    training(*engine, model.layers[0]);
    return all_right ? 0 : 1;
}
