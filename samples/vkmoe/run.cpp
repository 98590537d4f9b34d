#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/pictures.h"
#include "samples/vkmoe/routes.h"
#include "samples/vkmoe/tensor_file.h"

namespace vkmoe::program {
namespace {

uint64_t touchedExperts(const Introspection& introspection) {
    return uint64_t(std::count_if(introspection.experts.begin(), introspection.experts.end(),
                                  [](const auto& e) { return e.tokens > 0; }));
}

// Every page is resident: uses are hits of tier 1.
Json pagesJson(const Layer& layer, const ForwardResult& result) {
    return {{"hits", {{"tier1", touchedExperts(result.introspection)}, {"tier2", 0}, {"tier3", 0}}},
            {"bytes", layer.pageBytes() * layer.description().experts},
            {"evictions", 0},
            {"cpu_computed", 0}};
}

void printSummary(const Context& context, const std::string& device, const Layer& layer, const ForwardResult& result) {
    if (context.json) {
        print({{"device", device},
               {"precision", context.precision},
               {"tokens", result.tokens},
               {"seconds", result.seconds},
               {"submits", result.submits},
               {"host_waits", result.host_waits},
               {"pages", pagesJson(layer, result)},
               {"introspection", introspectionToJson(result.introspection)}});
        return;
    }
    fmt::print("{} tokens on {} ({}) in {:.1f} ms: {:.0f} tokens/s, {} submits, {} host waits\n", result.tokens, device,
               context.precision, result.seconds * 1e3, result.tokens == 0 ? 0 : double(result.tokens) / result.seconds,
               result.submits, result.host_waits);
    fmt::print("{}", loadPicture(result.introspection));
}

// Before any work: the results have places to go, and not the same one.
Result<void> checkTargets(const RunOptions& options) {
    for (const std::string& path : {options.output, options.routes}) {
        if (path.empty()) continue;
        std::error_code error;
        auto folder = std::filesystem::path(path).parent_path();
        if (!folder.empty() && !std::filesystem::is_directory(folder, error))
            return Error{ErrorCode::io, fmt::format("{}: {} is no folder", path, folder.string())};
    }
    if (options.output == options.routes)
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: output and routes cannot go to the same file", options.output)};
    return {};
}

// Both files or neither.
Result<void> writeResults(const RunOptions& options, const ForwardResult& result) {
    VKMOE_CHECK(writeTokens(options.output, result.output));
    if (options.routes.empty()) return {};
    auto written = writeText(options.routes, routesToJson(result.routes).dump() + "\n");
    if (!written) std::remove(options.output.c_str());
    return written;
}

// A sentence about the input's values names its file.
Error aboutInput(const RunOptions& options, Error error) {
    if (error.detail.starts_with("the input")) error.detail = options.input + ": " + error.detail;
    return error;
}

Result<void> runLayer(const Context& context, const RunOptions& options, Engine& engine) {
    VKMOE_TRY(layer, Layer::open(engine, options.file, context.compat));
    for (const auto& warning : layer.warnings()) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    const Description& description = layer.description();
    VKMOE_TRY(tokens, readTokens(options.input, description.model_dim));
    ForwardOptions forward{.precision = context.chosenPrecision()};
    Routes forced;
    if (!options.routes_in.empty()) {
        VKMOE_TRY(routes, routesFromFile(options.routes_in, description, tokens.size() / description.model_dim));
        forced = std::move(routes);
        forward.forced_routes = &forced;
    }
    Progress progress("running");
    forward.progress = [&](uint64_t done, uint64_t all) { return progress.show(done, all), true; };
    auto result = layer.forward(tokens, forward);
    if (!result) return aboutInput(options, std::move(result).error());
    VKMOE_CHECK(writeResults(options, *result));
    printSummary(context, engine.device().info().name, layer, *result);
    return {};
}

}  // namespace

int run(const Context& context, const RunOptions& options) {
    if (auto targets = checkTargets(options); !targets) return fail(targets.error());
    return context.runOnDevice([&](Engine& engine) { return runLayer(context, options, engine); });
}

}  // namespace vkmoe::program
