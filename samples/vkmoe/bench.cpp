#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "engine/cases/scene.h"
#include "engine/formats/moe0.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/tensor_file.h"

namespace vkmoe::program {
namespace {

constexpr uint32_t kRepeats = 5;
constexpr double kLongEnough = 0.02;  // seconds a peak measurement takes at least

struct Peaks {
    double multiply_add = 0, fused = 0;  // flop/s
    double read = 0;                     // bytes/s
};

struct Row {
    std::string kernel, form;
    bool fused = false;
    double seconds = 0, flops = 0, bytes = 0;
};

// What fraction of the peak that bounds this row it reaches.
double fraction(const Row& row, const Peaks& peaks) {
    double compute = row.flops / (row.fused ? peaks.fused : peaks.multiply_add), memory = row.bytes / peaks.read;
    return std::max(compute, memory) / row.seconds;
}

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

// The forms worth timing: for experts every format and precision without bias, else the first.
std::vector<Constants> formsToTime(const KernelCode& code) {
    auto all = productionConstants(code);
    if (!isExpert(code)) return {all.front()};
    std::erase_if(all, [](const Constants& c) { return c.bias != 0 || c.dense != 0; });
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
            .hidden_dim = o.hidden_dim};
}

// Bits first, on a shape with every edge; then time on the real one.
Result<Row> timeKernel(Device& device, Device& scalar, const KernelCode& code, const Constants& c,
                       const BenchOptions& options) {
    Case check = makeCase(code, c, edgeShapes(code)[5]);
    VKMOE_TRY(got, run(device, check));
    VKMOE_TRY(expected, run(scalar, check));
    if (auto row = difference(check, got, expected)) return Error{ErrorCode::refused_device, *row};
    Case test = makeCase(code, c, shapeFor(code, options));
    VKMOE_TRY(timed, run(device, test, kRepeats));
    return Row{code.name, formName(code, c), c.fused != 0, timed.seconds, test.flops, test.bytes};
}

// A whole layer: shared and routed experts' GEMMs counted as work, and everything around them paid for.
Result<Row> timeLayer(Engine& engine, const BenchOptions& o, uint32_t tokens) {
    VKMOE_TRY(file, formats::initMoe0({o.model_dim, o.hidden_dim, o.experts, o.top_k}));
    VKMOE_TRY(source, formats::readMoe0(memorySource("bench layer", std::move(file))));
    VKMOE_TRY(layer, Layer::create(engine, source));
    auto x = randomTokens(tokens, o.model_dim);
    double best = 1e30;
    for (uint32_t i = 0; i <= kRepeats; ++i) {
        VKMOE_TRY(result, layer.forward(x, {.introspection = false}));
        if (i > 0) best = std::min(best, result.seconds);
    }
    double expert = 4.0 * o.model_dim * o.hidden_dim,
           experts = std::min<double>(o.experts, double(tokens) * o.top_k) + 1;
    return Row{"layer",
               fmt::format("f32 relu, {} token{}", tokens, tokens == 1 ? "" : "s"),
               false,
               best,
               expert * tokens * (o.top_k + 1),
               experts * expert * 2};
}

Json rowJson(const Row& row, const Peaks& peaks) {
    return {{"kernel", row.kernel},
            {"form", row.form},
            {"ms", row.seconds * 1e3},
            {"gflops", row.flops / row.seconds * 1e-9},
            {"gbytes_per_second", row.bytes / row.seconds * 1e-9},
            {"percent_of_peak", 100 * fraction(row, peaks)}};
}

void printTable(const DeviceInfo& info, const BenchOptions& o, const std::vector<Row>& rows, const Peaks& peaks) {
    fmt::print("{}, {} tokens, {} experts, top {}, D {}, F {}\n", info.name, o.tokens, o.experts, o.top_k, o.model_dim,
               o.hidden_dim);
    fmt::print("measured peaks: {:.1f} GFLOP/s multiply then add, {:.1f} fused, {:.1f} GB/s read\n\n",
               peaks.multiply_add * 1e-9, peaks.fused * 1e-9, peaks.read * 1e-9);
    fmt::print("{:<18} {:<22} {:>10} {:>10} {:>10} {:>9}\n", "kernel", "form", "ms", "GFLOP/s", "GB/s", "of peak");
    for (const Row& row : rows)
        fmt::print("{:<18} {:<22} {:>10.3f} {:>10.2f} {:>10.2f} {:>8.1f}%\n", row.kernel, row.form, row.seconds * 1e3,
                   row.flops / row.seconds * 1e-9, row.bytes / row.seconds * 1e-9, 100 * fraction(row, peaks));
}

Result<std::vector<Row>> timeAll(Engine& engine, const BenchOptions& options) {
    auto scalar = openCpuDevice({.simd = false});
    std::vector<Row> rows;
    Progress progress("timing on " + engine.device().info().name);
    auto all = kernels().all();
    for (size_t i = 0; i < all.size(); ++i) {
        progress.show(i, all.size());
        if (isPeak(*all[i]) || std::string(all[i]->name).find(options.filter) == std::string::npos) continue;
        for (const Constants& constants : formsToTime(*all[i])) {
            VKMOE_TRY(row, timeKernel(engine.device(), *scalar, *all[i], constants, options));
            rows.push_back(row);
        }
    }
    if (std::string("layer").find(options.filter) == std::string::npos) return rows;
    for (uint32_t tokens : {options.tokens, 1u}) {
        VKMOE_TRY(row, timeLayer(engine, options, tokens));
        rows.push_back(row);
    }
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
    auto rows = timeAll(**engine, options);
    if (!rows)
        return rows.error().code == ErrorCode::refused_device ? (fail(rows.error()), int(kCheckFailed))
                                                              : fail(rows.error());
    const DeviceInfo& info = (*engine)->device().info();
    if (!context.json) return printTable(info, options, *rows, *peaks), kOk;
    Json list = Json::array();
    for (const Row& row : *rows) list.push_back(rowJson(row, *peaks));
    print({{"device", info.name},
           {"driver", info.driver},
           {"tokens", options.tokens},
           {"experts", options.experts},
           {"top_k", options.top_k},
           {"model_dim", options.model_dim},
           {"hidden_dim", options.hidden_dim},
           {"peaks",
            {{"multiply_add_gflops", peaks->multiply_add * 1e-9},
             {"fused_gflops", peaks->fused * 1e-9},
             {"read_gbytes_per_second", peaks->read * 1e-9}}},
           {"rows", list}});
    return kOk;
}

}  // namespace vkmoe::program
