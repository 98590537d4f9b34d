#include <fmt/format.h>

#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "engine/cases/scene.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/lm_file.h"
#include "samples/vkmoe/tensor_file.h"
#include "shaders/math_probe.h"
#include "vkmoe/language_model.h"
#include "vkmoe/stack.h"

namespace vkmoe::program {
namespace {

struct Verdict {
    std::string device, name;
    uint64_t compared = 0;
    std::vector<std::string> differences;
    std::optional<Error> file_error = {};  // the CPU cannot run the file either
};

std::vector<Case> allCases(const DeviceLimits& limits) {
    std::vector<Case> cases;
    for (uint32_t function = 0; function < kProbeCount; ++function) cases.push_back(mathCase(function, 3, 4000));
    for (const KernelCode* code : kernels().all()) {
        if (code == &kernels().math_probe) continue;
        auto shapes = edgeShapes(*code);
        for (const Constants& constants : productionConstants(*code, limits))
            for (size_t i = 4; i < 8; ++i) cases.push_back(makeCase(*code, constants, shapes[i]));
    }
    return cases;
}

Result<void> verifyKernels(Engine& engine, Verdict& verdict) {
    auto scalar = openCpuDevice({.simd = false});
    auto cases = allCases(engine.device().info().limits);
    Progress progress("verifying kernels on " + verdict.device);
    for (size_t i = 0; i < cases.size(); ++i) {
        progress.show(i, cases.size());
        VKMOE_TRY(expected, run(*scalar, cases[i]));
        VKMOE_TRY(got, run(engine.device(), cases[i]));
        if (auto row = difference(cases[i], got, expected)) verdict.differences.push_back(*row);
        ++verdict.compared;
    }
    return {};
}

// What the file gives on an engine, as words to compare.
using Words = std::vector<uint32_t>;

void append(Words& words, std::span<const float> values) {
    const size_t before = words.size();
    words.resize(before + values.size());
    std::memcpy(words.data() + before, values.data(), values.size_bytes());
}

constexpr uint32_t kTokens = 97;

// The output of a layer or a stack, and who went where.
Result<Words> stackOutput(Stack& model, Precision precision) {
    VKMOE_TRY(result, model.forward(randomTokens(kTokens, model.modelDim()), {.precision = precision}));
    Words words;
    append(words, result.output);
    for (const auto& layer : result.layers)
        words.insert(words.end(), layer.routes.experts.begin(), layer.routes.experts.end());
    return words;
}

// A language model's logits, and a text that it goes on with.
Result<Words> lmOutput(Engine& engine, const formats::LmSource& source, Precision precision) {
    VKMOE_TRY(model, LanguageModel::create(engine, source, precision));
    std::vector<uint32_t> tokens(kTokens);
    for (uint32_t i = 0; i < kTokens; ++i) tokens[i] = uint32_t(uint64_t{i} * 2654435761u % source.config.vocab_size);
    VKMOE_TRY(logits, model.logits(tokens));
    VKMOE_TRY(words, model.generate(std::span(tokens).first(5), {.max_new_tokens = 16, .temperature = 1}));
    append(words, logits);
    return words;
}

// Opens the file on an engine. A language model is opened for each precision, the others once for both.
Result<std::function<Result<Words>(Precision)>> outputOn(Engine& engine, const Context& context,
                                                         const std::string& file, const std::optional<LmFile>& lm) {
    using Output = std::function<Result<Words>(Precision)>;
    if (lm) return Output([&](Precision precision) { return lmOutput(engine, lm->source, precision); });
    VKMOE_TRY(opened, Stack::open(engine, file, context.compat));
    auto model = std::make_shared<Stack>(std::move(opened));
    return Output([model](Precision precision) { return stackOutput(*model, precision); });
}

// The model's output on this engine and on the scalar CPU, in both precisions.
Result<void> verifyModel(Engine& engine, const Context& context, const std::string& file,
                         const std::optional<LmFile>& lm, Verdict& verdict) {
    EngineOptions options = context.engineOptions("cpu");
    options.device_options.simd = false;
    VKMOE_TRY(scalar, Engine::open(options));
    VKMOE_TRY(expected_output, outputOn(*scalar, context, file, lm));
    VKMOE_TRY(output, outputOn(engine, context, file, lm));
    for (Precision precision : {Precision::exact, Precision::rounded}) {
        auto expected = expected_output(precision);
        if (!expected) {  // no device is to blame
            verdict.file_error = expected.error();
            return {};
        }
        VKMOE_TRY(got, output(precision));
        ++verdict.compared;
        if (got != *expected)
            verdict.differences.push_back(fmt::format("{}: the output differs in {} precision", file, name(precision)));
    }
    return {};
}

std::vector<std::string> devicesToVerify(const Context& context, bool device_given) {
    if (device_given) return {context.device};
    std::vector<std::string> choices;
    auto candidates = listVulkanDevices();
    for (size_t i = 0; candidates && i < candidates->size(); ++i)
        if (candidates->at(i).unusable.empty()) choices.push_back(fmt::format("gpu:{}", i));
    choices.push_back("cpu");
    return choices;
}

int report(const Context& context, const std::vector<Verdict>& verdicts) {
    bool ok = true;
    Json list = Json::array();
    for (const Verdict& v : verdicts) {
        ok = ok && v.differences.empty();
        list.push_back(
            {{"device", v.device}, {"name", v.name}, {"compared", v.compared}, {"differences", v.differences}});
        if (context.json) continue;
        fmt::print("{:<6} {}: {} comparisons with the CPU, {}\n", v.device, v.name, v.compared,
                   v.differences.empty() ? "every bit equal" : fmt::format("{} DIFFER", v.differences.size()));
        for (const auto& row : v.differences) fmt::print("       {}\n", row);
    }
    if (context.json) print({{"ok", ok}, {"devices", list}});
    return ok ? kOk : kCheckFailed;
}

// The file is bad or good before any device is tried. A language model, if it is one.
Result<std::optional<LmFile>> checkFile(const Context& context, const std::string& file) {
    VKMOE_TRY(lm, findLm(file, context.compat));
    if (lm) return lm;
    VKMOE_TRY(engine, Engine::open(context.engineOptions("cpu")));
    VKMOE_TRY(model, Stack::open(*engine, file, context.compat));
    for (const auto& warning : model.warnings()) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    return std::optional<LmFile>();
}

Result<void> verifyDevice(const Context& context, const std::string& file, const std::optional<LmFile>& lm,
                          Verdict& verdict) {
    EngineOptions options = context.engineOptions(verdict.device);
    options.probe = false;  // verify compares everything itself, and reports instead of refusing
    VKMOE_TRY(engine, Engine::open(options));
    verdict.name = engine->device().info().name;
    VKMOE_CHECK(verifyKernels(*engine, verdict));
    return file.empty() ? Result<void>() : verifyModel(*engine, context, file, lm, verdict);
}

}  // namespace

int verify(const Context& context, bool device_given, const std::string& file) {
    std::optional<LmFile> lm;
    if (!file.empty()) {
        auto good = checkFile(context, file);
        if (!good) return fail(good.error());
        lm = std::move(*good);
    }
    std::vector<Verdict> verdicts;
    for (const std::string& choice : devicesToVerify(context, device_given)) {
        Verdict verdict{choice, "", 0, {}};
        auto done = verifyDevice(context, file, lm, verdict);
        if (verdict.file_error) return fail(*verdict.file_error);
        if (!done && device_given) return fail(done.error());
        if (!done) verdict.differences.push_back("did not run: " + done.error().detail);
        verdicts.push_back(std::move(verdict));
    }
    return report(context, verdicts);
}

}  // namespace vkmoe::program
