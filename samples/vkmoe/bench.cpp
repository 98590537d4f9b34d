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

constexpr uint32_t kRepeats = 10;
constexpr double kLongEnough = 0.02;  // seconds a peak measurement takes at least, and a layer's
constexpr double kSlow = 0.5;         // seconds from which on a kernel is timed once

// The device's arithmetic peaks, flop/s, as often as one likes.
class ArithmeticPeak {
public:
    explicit ArithmeticPeak(Device& device) : device_(device) {}

    // Held for about `seconds`: where others use the machine too, a short burst finds a quiet moment and a long kernel
    // does not.
    Result<double> measure(bool fused, double seconds = kLongEnough) {
        for (seconds = std::clamp(seconds, kLongEnough, kSlow);;) {
            double groups = std::clamp(groups_per_second_ * seconds, 256.0, 65536.0);
            Shape shape{.tokens = static_cast<uint32_t>(groups), .model_dim = 4096};
            Case test = makeCase(kernels().peak_multiply_add, {.fused = fused}, shape);
            VKMOE_TRY(result, run(device_, test, kRepeats));
            groups_per_second_ = shape.tokens / result.seconds;
            if (result.seconds > seconds / 2 || shape.tokens == 65536) return test.flops / result.seconds;
        }
    }

    // What `time` measures, with the peak of its kind, before and after, beside it where arithmetic may bound it.
    template <class Time>
    Result<BenchRow> beside(const Peaks& peaks, bool fused, const Time& time) {
        double guess = held_;
        VKMOE_TRY(before, measure(fused, guess));
        VKMOE_TRY(row, time());
        row.peak_beside = before;
        if (row.flops / before < row.bytes / peaks.read) return row;
        held_ = row.seconds;
        VKMOE_TRY(after, measure(fused, held_));
        bool alike = guess > held_ / 2;  // a shorter burst says nothing of this kernel
        row.peak_beside = alike ? std::max(before, after) : after;
        return row;
    }

private:
    Device& device_;
    double groups_per_second_ = 0, held_ = kLongEnough;  // the latter as the last kernel that arithmetic bound
};

Result<Peaks> measurePeaks(Device& device, ArithmeticPeak& arithmetic) {
    Peaks peaks;
    VKMOE_TRY(multiply_add, arithmetic.measure(false));
    VKMOE_TRY(fused, arithmetic.measure(true));
    Case read = makeCase(kernels().peak_read, {}, {.tokens = 1024, .model_dim = 1024});  // 256 MiB
    VKMOE_TRY(result, run(device, read, kRepeats));
    peaks.multiply_add = multiply_add;
    peaks.fused = fused;
    peaks.read = read.bytes / result.seconds;
    return peaks;
}

// How often a layer is run: the fastest run counts, but for the first, which warms up. A layer of one token takes a
// tenth of a millisecond: of a machine that others use, too, ten runs would see less than one burst of the peak beside
// it.
class Runs {
public:
    bool more() const { return count_ < 2 || (best_ < kSlow && (count_ <= kRepeats || spent_ < kLongEnough)); }

    void add(double seconds) {
        if (count_++ == 0) return;
        best_ = std::min(best_, seconds);
        spent_ += seconds;
    }

    uint32_t count() const { return count_; }
    double best() const { return best_; }

private:
    uint32_t count_ = 0;
    double best_ = 1e30, spent_ = 0;
};

// What a benchmark has so far.
struct Bench {
    Engine& engine;
    const BenchOptions& options;
    ArithmeticPeak arithmetic;
    Peaks peaks;
    std::vector<BenchRow> rows;
    std::vector<std::string> notes;
};

bool isExpert(const KernelCode& code) { return std::string(code.name).starts_with("expert_"); }

bool isPeak(const KernelCode& code) {
    return std::string(code.name).starts_with("peak_") || &code == &kernels().math_probe;
}

// The forms worth timing: for experts silu_glu (and relu in f32) in every format and precision, without bias, else the
// first. None where the device lacks what the kernel needs.
std::vector<Constants> formsToTime(const KernelCode& code, const DeviceLimits& limits, const BenchOptions& options) {
    auto all = productionConstants(code, limits);
    if (!isExpert(code) && !all.empty()) all.resize(1);
    if (!isExpert(code)) return all;
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

// The tokens of a row: others each time, so many that all experts' turns come; or the same again and again, whose
// experts' weights may stay in a cache.
struct LayerTokens {
    uint32_t count;
    bool again = false;
};

std::string layerForm(WeightFormat format, Precision precision, LayerTokens tokens) {
    return fmt::format("{}{} silu_glu, {} token{}{}", name(format), precision == Precision::rounded ? " rounded" : "",
                       tokens.count, tokens.count == 1 ? "" : "s", tokens.again ? " again" : "");
}

// A whole layer: its GEMMs counted as work, and everything around them paid for.
Result<BenchRow> timeLayer(Layer& layer, const BenchOptions& o, WeightFormat format, Precision precision,
                           LayerTokens of) {
    const uint32_t tokens = of.count, others = of.again ? 1 : std::max(16u, o.experts);
    const auto x = randomTokens(tokens + others - 1, o.model_dim);
    Runs runs;
    while (runs.more()) {
        const size_t first = runs.count() % others;
        VKMOE_TRY(result, layer.forward(std::span(x).subspan(first * o.model_dim, size_t{tokens} * o.model_dim),
                                        {.precision = precision, .introspection = false}));
        runs.add(result.seconds);
    }
    double expert = 3.0 * o.model_dim * o.hidden_dim, experts = std::min<double>(o.experts, double(tokens) * o.top_k);
    double block = double(formats::formatBytes(format, kBlock)) + (format == WeightFormat::mxfp4 ? 1 : 0);  // its scale
    return BenchRow{"layer",     layerForm(format, precision, of), precision == Precision::rounded,
                    runs.best(), 2 * expert * tokens * o.top_k,    experts * expert / kBlock * block};
}

// Training's two passes over a layer, each alone; a backward pass has twice the forward's GEMMs.
Result<void> timeTraining(Bench& bench) {
    const BenchOptions& o = bench.options;
    for (Precision precision : {Precision::exact, Precision::rounded}) {
        bool rounded = precision == Precision::rounded;
        std::string form = fmt::format("{} silu_glu, {} tokens", rounded ? "bf16 rounded" : "f32", o.tokens);
        if (!wanted(o, "layer forward", form) && !wanted(o, "layer backward", form)) continue;
        VKMOE_TRY(trainer,
                  LayerTrainer::create(bench.engine, benchLayer(o, WeightFormat::f32), {.precision = precision}));
        auto x = randomTokens(o.tokens, o.model_dim), grad = randomTokens(o.tokens, o.model_dim);
        double flops = 6.0 * o.model_dim * o.hidden_dim * o.tokens * o.top_k;
        double bytes = 3.0 * o.model_dim * o.hidden_dim * std::min<double>(o.experts, double(o.tokens) * o.top_k) * 4;
        BenchRow forward{"layer forward", form, rounded, 1e30, flops, bytes};
        BenchRow backward{"layer backward", form, rounded, 1e30, 2 * flops, 3 * bytes};
        auto time = [&]() -> Result<BenchRow> {
            Runs forwards, backwards;
            while (backwards.more()) {
                VKMOE_TRY(result, trainer.backward(x, grad));
                forwards.add(result.forward_seconds);
                backwards.add(result.backward_seconds);
            }
            forward.seconds = forwards.best();
            backward.seconds = backwards.best();
            return forward;
        };
        VKMOE_TRY(row, bench.arithmetic.beside(bench.peaks, rounded, time));
        backward.peak_beside = row.peak_beside;
        bench.rows.push_back(row);
        bench.rows.push_back(backward);
    }
    return {};
}

// Every format in every precision: many tokens, one, and one again and again.
Result<void> timeLayers(Bench& bench) {
    const BenchOptions& o = bench.options;
    for (WeightFormat format : {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16, WeightFormat::mxfp4}) {
        if (format == WeightFormat::mxfp4 && (o.model_dim % kBlock != 0 || o.hidden_dim % kBlock != 0)) continue;
        std::optional<Layer> layer;
        for (Precision precision : {Precision::exact, Precision::rounded}) {
            if (format == WeightFormat::f32 && precision == Precision::rounded) continue;
            for (LayerTokens tokens : {LayerTokens{o.tokens}, LayerTokens{1}, LayerTokens{1, true}}) {
                if (!wanted(o, "layer", layerForm(format, precision, tokens))) continue;
                if (!layer) {
                    VKMOE_TRY(made, Layer::create(bench.engine, benchLayer(o, format)));
                    layer = std::move(made);
                }
                auto time = [&] { return timeLayer(*layer, o, format, precision, tokens); };
                VKMOE_TRY(row, bench.arithmetic.beside(bench.peaks, precision == Precision::rounded, time));
                bench.rows.push_back(row);
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

Result<void> timeAll(Bench& bench) {
    Device& device = bench.engine.device();
    auto scalar = openCpuDevice({.simd = false});
    Progress progress("timing on " + device.info().name);
    auto all = kernels().all();
    for (size_t i = 0; i < all.size(); ++i) {
        progress.show(i, all.size());
        if (isPeak(*all[i])) continue;
        for (const Constants& constants : formsToTime(*all[i], device.info().limits, bench.options)) {
            if (!wanted(bench.options, all[i]->name, formName(*all[i], constants))) continue;
            auto time = [&] { return timeKernel(device, *scalar, *all[i], constants, bench.options); };
            VKMOE_TRY(row, bench.arithmetic.beside(bench.peaks, constants.fused != 0, time));
            bench.rows.push_back(row);
        }
    }
    VKMOE_CHECK(timeIfItFits("layer", bench.notes, [&] { return timeLayers(bench); }));
    return timeIfItFits("layer backward", bench.notes, [&] { return timeTraining(bench); });
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
    Bench bench{**engine, options, ArithmeticPeak((*engine)->device()), {}, {}, {}};
    auto peaks = measurePeaks((*engine)->device(), bench.arithmetic);
    if (!peaks) return fail(peaks.error());
    bench.peaks = *peaks;
    if (auto timed = timeAll(bench); !timed)
        return timed.error().code == ErrorCode::refused_device ? (fail(timed.error()), int(kCheckFailed))
                                                               : fail(timed.error());
    BenchTable table{(*engine)->device().info(), options, *peaks, std::move(bench.rows)};
    for (const std::string& note : bench.notes) fmt::print(stderr, "vkmoe: warning: {}\n", note);
    if (!options.html.empty())
        if (auto written = writeText(options.html, benchHtml(table)); !written) return fail(written.error());
    context.json ? print(benchJson(table)) : fmt::print("{}", benchText(table));
    return kOk;
}

}  // namespace vkmoe::program
