#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cmath>
#include <random>

#include "engine/formats/moe0.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/pictures.h"
#include "samples/vkmoe/report.h"
#include "samples/vkmoe/tensor_file.h"

namespace vkmoe::program {
namespace {

// Tokens that drift slowly, so that neighbours go to the same experts and the pictures show something.
std::vector<float> driftingTokens(uint32_t tokens, uint32_t model_dim) {
    std::mt19937 random(2026);
    std::vector<float> state(model_dim), x;
    for (uint32_t t = 0; t < tokens; ++t) {
        for (float& v : state) v = v * 0.97f + float(int32_t(random())) * 0x1p-33f;
        for (float v : state) x.push_back(v + float(int32_t(random())) * 0x1p-33f);
    }
    return x;
}

std::string checksum(const std::vector<float>& output) {
    return fmt::format("{:016x}", XXH3_64bits(output.data(), output.size() * 4));
}

// The best usable Vulkan device, if there is one, and the CPU.
std::vector<std::string> choices(std::string& why_no_gpu) {
    auto candidates = listVulkanDevices();
    if (!candidates) {
        why_no_gpu = candidates.error().detail;
        return {"cpu"};
    }
    for (size_t i = 0; i < candidates->size(); ++i)
        if (candidates->at(i).unusable.empty()) return {fmt::format("gpu:{}", i), "cpu"};
    why_no_gpu =
        candidates->empty() ? "no Vulkan device" : candidates->front().info.name + ": " + candidates->front().unusable;
    return {"cpu"};
}

Result<DeviceRun> runOn(const Context& context, const std::string& choice, const formats::LayerSource& source,
                        const std::vector<float>& x) {
    VKMOE_TRY(engine, Engine::open(context.engineOptions(choice)));
    VKMOE_TRY(layer, Layer::create(*engine, source));
    VKMOE_TRY(warm, layer.forward(std::span(x).first(source.description.model_dim),
                                  {.precision = context.chosenPrecision()}));
    (void)warm;  // pipelines are built now
    Progress progress("running on " + engine->device().info().name);
    ForwardOptions options{.precision = context.chosenPrecision()};
    options.progress = [&](uint64_t done, uint64_t all) { return progress.show(done, all), true; };
    VKMOE_TRY(result, layer.forward(x, options));
    std::string bits = checksum(result.output);
    return DeviceRun{choice, engine->device().info(), std::move(result), bits};
}

Json summary(const Report& report, const std::string& file) {
    Json runs = Json::array();
    for (const DeviceRun& run : report.runs)
        runs.push_back({{"device", run.choice},
                        {"name", run.info.name},
                        {"type", name(run.info.type)},
                        {"seconds", run.result.seconds},
                        {"tokens", run.result.tokens},
                        {"submits", run.result.submits},
                        {"output_bits", run.checksum}});
    return {{"precision", report.precision}, {"same_bits", report.same_bits}, {"runs", runs}, {"report", file}};
}

void printRun(const DeviceRun& run) {
    const char* remark = run.info.type == DeviceType::software ? " (a software driver: Vulkan on the CPU)" : "";
    fmt::print("  {}{}\n    {} tokens in {:.1f} ms, {:.0f} tokens/s, {} submits, output bits {}\n", run.info.name,
               remark, run.result.tokens, run.result.seconds * 1e3, double(run.result.tokens) / run.result.seconds,
               run.result.submits, run.checksum);
}

}  // namespace

int demo(const Context& context, const DemoOptions& options) {
    auto file = formats::initMoe0({});
    if (!file) return fail(file.error());
    auto source = formats::readMoe0(memorySource("default.moe0", std::move(*file)));
    if (!source) return fail(source.error());
    Report report{"the default SharedExpertMoE checkpoint", context.precision, source->description, {}, true};
    auto x = driftingTokens(options.tokens, source->description.model_dim);

    std::string why_no_gpu;
    if (!context.json)
        fmt::print(
            "1. The default checkpoint: 8 experts of 128 hidden values, top 2, tokens of 64 values; {} tokens\n\n2. "
            "Where it runs\n",
            options.tokens);
    for (const std::string& choice : choices(why_no_gpu)) {
        auto run = runOn(context, choice, *source, x);
        if (!run && choice != "cpu") {
            why_no_gpu = run.error().detail;
            continue;
        }
        if (!run) return fail(run.error());
        if (!context.json) printRun(*run);
        report.same_bits = report.same_bits && (report.runs.empty() || run->checksum == report.runs.front().checksum);
        report.runs.push_back(std::move(*run));
    }
    if (!context.json && !why_no_gpu.empty()) fmt::print("  {}: the CPU alone served\n", why_no_gpu);
    auto written = writeText(options.report, reportHtml(report));
    if (!written) return fail(written.error());
    if (context.json) return print(summary(report, options.report)), report.same_bits ? kOk : kCheckFailed;

    const ForwardResult& result = report.runs.front().result;
    fmt::print("\n3. Who went where\n{}\n4. The load\n{}", routingPicture(result.routes, report.description.experts),
               loadPicture(result.introspection));
    fmt::print("\n5. The report: {}\n\n6. The bits: {}\n", options.report,
               report.runs.size() < 2 ? "only the CPU ran, nothing to compare"
               : report.same_bits     ? "every device gave the same output, bit for bit"
                                      : "the devices' outputs DIFFER");
    return report.same_bits ? kOk : kCheckFailed;
}

}  // namespace vkmoe::program
