#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "engine/cases/scene.h"
#include "samples/vkmoe/bench_layer.h"
#include "samples/vkmoe/bench_table.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/tensor_file.h"
#include "vkmoe/layer_trainer.h"

namespace vkmoe::program {
namespace {

constexpr uint32_t kRepeats = 5;
constexpr double kLongEnough = 0.02;  // seconds a peak measurement takes at least
constexpr double kSlow = 0.5;         // seconds from which on a kernel is timed once

Result<double> measureArithmetic(Device& device, uint32_t fused) {
    for (uint32_t groups = 256;; groups *= 4) {
        Case test = makeCase(kernels().peak_multiply_add, {.fused = fused}, {.tokens = groups, .model_dim = 4096});
        VKMOE_TRY(result, run(device, test, kRepeats));
        if (result.seconds > kLongEnough || groups >= 65536) return test.flops / result.seconds;
    }
}

Result<Peaks> measurePeaks(Device& device) {
    Peaks peaks;
    VKMOE_TRY(multiply_add, measureArithmetic(device, 0));
    VKMOE_TRY(fused, measureArithmetic(device, 1));
    Case read = makeCase(kernels().peak_read, {}, {.tokens = 1024, .model_dim = 1024});  // 256 MiB
    VKMOE_TRY(result, run(device, read, kRepeats));
    peaks.multiply_add = multiply_add;
    peaks.fused = fused;
    peaks.read = read.bytes / result.seconds;
    return peaks;
}

bool isExpert(const KernelCode& code) { return std::string(code.name).starts_with("expert_"); }

bool isPeak(const KernelCode& code) {
    return std::string(code.name).starts_with("peak_") || &code == &kernels().math_probe;
}

// The forms worth timing: for experts silu_glu (and relu in f32) in every format and precision, without bias, else the
// first.
std::vector<Constants> formsToTime(const KernelCode& code, const DeviceLimits& limits, const BenchOptions& options) {
    auto all = productionConstants(code, limits);
    if (!isExpert(code)) return {all.front()};
    bool up = std::string(code.name).starts_with("expert_up");
    bool blocks = options.model_dim % kBlock == 0 && options.hidden_dim % kBlock == 0;
    std::erase_if(all, [&](const Constants& c) {
        if (c.bias != 0 || c.dense != 0 || c.keep_totals != 0 || c.carry != 0 || (c.weight_format == kMxfp4 && !blocks))
            return true;
        return up && c.activation != kSiluGlu && (c.activation != kRelu || c.weight_format != kF32);
    });
    return all;
}

std::string formName(const KernelCode& code, const Constants& c) {
    if (!isExpert(code)) return "";
    std::string text = fmt::format("{}{}", name(WeightFormat(c.weight_format)), c.fused ? " rounded" : "");
    return std::string(code.name).starts_with("expert_up") ? fmt::format("{} {}", text, name(Activation(c.activation)))
                                                           : text;
}

Shape shapeFor(const KernelCode& code, const BenchOptions& o) {
    bool gemv = std::string(code.name).ends_with("_gemv");
    return {.tokens = gemv ? 1 : o.tokens,
            .experts = o.experts,
            .top_k = o.top_k,
            .model_dim = o.model_dim,
            .hidden_dim = o.hidden_dim,
            .same_pages = true};
}

// Bits first, on a shape with every edge; then time on the real one.
Result<BenchRow> timeKernel(Device& device, Device& scalar, const KernelCode& code, const Constants& c,
                            const BenchOptions& options) {
    Case check = makeCase(code, c, edgeShapes(code)[5]);
    VKMOE_TRY(got, run(device, check));
    VKMOE_TRY(expected, run(scalar, check));
    if (auto row = difference(check, got, expected)) return Error{ErrorCode::refused_device, *row};
    Case test = makeCase(code, c, shapeFor(code, options));
    VKMOE_TRY(timed, run(device, test, kRepeats));
    return BenchRow{code.name, formName(code, c), c.fused != 0, timed.seconds, test.flops, test.bytes};
}

bool wanted(const BenchOptions& o, const std::string& row, const std::string& form) {
    return (row + " " + form).find(o.filter) != std::string::npos;
}

std::string layerForm(WeightFormat format, Precision precision, uint32_t tokens) {
    return fmt::format("{}{} silu_glu, {} token{}", name(format), precision == Precision::rounded ? " rounded" : "",
                       tokens, tokens == 1 ? "" : "s");
}

// A whole layer: its GEMMs counted as work, and everything around them paid for.
Result<BenchRow> timeLayer(Layer& layer, const BenchOptions& o, WeightFormat format, Precision precision,
                           uint32_t tokens) {
    double best = 1e30;
    for (uint32_t i = 0; i <= kRepeats && (i < 2 || best < kSlow); ++i) {
        auto x = randomTokens(tokens + i, o.model_dim);  // other tokens each time: other experts where there are few
        VKMOE_TRY(result, layer.forward(std::span(x).last(size_t{tokens} * o.model_dim),
                                        {.precision = precision, .introspection = false}));
        if (i > 0) best = std::min(best, result.seconds);
    }
    double expert = 3.0 * o.model_dim * o.hidden_dim, experts = std::min<double>(o.experts, double(tokens) * o.top_k);
    return BenchRow{"layer",
                    layerForm(format, precision, tokens),
                    precision == Precision::rounded,
                    best,
                    2 * expert * tokens * o.top_k,
                    experts * double(formats::formatBytes(format, 32)) / 32 * expert};
}

// Training's two passes over a layer, each alone; a backward pass has twice the forward's GEMMs.
Result<void> timeTraining(Engine& engine, const BenchOptions& o, std::vector<BenchRow>& rows) {
    for (Precision precision : {Precision::exact, Precision::rounded}) {
        bool rounded = precision == Precision::rounded;
        std::string form = fmt::format("{} silu_glu, {} tokens", rounded ? "bf16 rounded" : "f32", o.tokens);
        if (!wanted(o, "layer forward", form) && !wanted(o, "layer backward", form)) continue;
        VKMOE_TRY(trainer, LayerTrainer::create(engine, benchLayer(o, WeightFormat::f32), {.precision = precision}));
        auto x = randomTokens(o.tokens, o.model_dim), grad = randomTokens(o.tokens, o.model_dim);
        double forward = 1e30, backward = 1e30;
        for (uint32_t i = 0; i <= kRepeats && (i < 2 || backward < kSlow); ++i) {
            VKMOE_TRY(result, trainer.backward(x, grad));
            forward = std::min(forward, result.forward_seconds);
            backward = std::min(backward, result.backward_seconds);
        }
        double flops = 6.0 * o.model_dim * o.hidden_dim * o.tokens * o.top_k;
        double bytes = 3.0 * o.model_dim * o.hidden_dim * std::min<double>(o.experts, double(o.tokens) * o.top_k) * 4;
        rows.push_back({"layer forward", form, rounded, forward, flops, bytes});
        rows.push_back({"layer backward", form, rounded, backward, 2 * flops, 3 * bytes});
    }
    return {};
}

// Every format in every precision, many tokens and one.
Result<void> timeLayers(Engine& engine, const BenchOptions& o, std::vector<BenchRow>& rows) {
    for (WeightFormat format : {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16, WeightFormat::mxfp4}) {
        if (format == WeightFormat::mxfp4 && (o.model_dim % kBlock != 0 || o.hidden_dim % kBlock != 0)) continue;
        std::optional<Layer> layer;
        for (Precision precision : {Precision::exact, Precision::rounded}) {
            if (format == WeightFormat::f32 && precision == Precision::rounded) continue;
            for (uint32_t tokens : {o.tokens, 1u}) {
                if (!wanted(o, "layer", layerForm(format, precision, tokens))) continue;
                if (!layer) {
                    VKMOE_TRY(made, Layer::create(engine, benchLayer(o, format)));
                    layer = std::move(made);
                }
                VKMOE_TRY(row, timeLayer(*layer, o, format, precision, tokens));
                rows.push_back(row);
            }
        }
    }
    return {};
}

// Rows of `what`; if the device has too little memory for it, a note.
template <class Time>
Result<void> timeIfItFits(const char* what, std::vector<std::string>& notes, const Time& time) {
    Result<void> timed = time();
    if (timed || timed.error().code != ErrorCode::out_of_memory) return timed;
    notes.push_back(fmt::format("{}: left out from here on: {}", what, timed.error().detail));
    return {};
}

Result<std::vector<BenchRow>> timeAll(Engine& engine, const BenchOptions& options, std::vector<std::string>& notes) {
    auto scalar = openCpuDevice({.simd = false});
    std::vector<BenchRow> rows;
    Progress progress("timing on " + engine.device().info().name);
    auto all = kernels().all();
    for (size_t i = 0; i < all.size(); ++i) {
        progress.show(i, all.size());
        if (isPeak(*all[i])) continue;
        for (const Constants& constants : formsToTime(*all[i], engine.device().info().limits, options)) {
            if (!wanted(options, all[i]->name, formName(*all[i], constants))) continue;
            VKMOE_TRY(row, timeKernel(engine.device(), *scalar, *all[i], constants, options));
            rows.push_back(row);
        }
    }
    VKMOE_CHECK(timeIfItFits("layer", notes, [&] { return timeLayers(engine, options, rows); }));
    VKMOE_CHECK(timeIfItFits("layer backward", notes, [&] { return timeTraining(engine, options, rows); }));
    return rows;
}

Result<void> validShape(const BenchOptions& o) {
    if (o.tokens == 0 || o.tokens > 65536)
        return Error{ErrorCode::bad_input, fmt::format("--tokens is {}, must be 1 to 65536", o.tokens)};
    Description d{.model_dim = o.model_dim, .hidden_dim = o.hidden_dim, .experts = o.experts, .top_k = o.top_k};
    return validate(d);
}

}  // namespace

int bench(const Context& context, const BenchOptions& options) {
    if (auto valid = validShape(options); !valid) return fail(valid.error());
    auto engine = context.openEngine();
    if (!engine) return fail(engine.error());
    auto peaks = measurePeaks((*engine)->device());
    if (!peaks) return fail(peaks.error());
    std::vector<std::string> notes;
    auto rows = timeAll(**engine, options, notes);
    if (!rows)
        return rows.error().code == ErrorCode::refused_device ? (fail(rows.error()), int(kCheckFailed))
                                                              : fail(rows.error());
    BenchTable table{(*engine)->device().info(), options, *peaks, std::move(*rows)};
    for (const std::string& note : notes) fmt::print(stderr, "vkmoe: warning: {}\n", note);
    if (!options.html.empty())
        if (auto written = writeText(options.html, benchHtml(table)); !written) return fail(written.error());
    context.json ? print(benchJson(table)) : fmt::print("{}", benchText(table));
    return kOk;
}

}  // namespace vkmoe::program
