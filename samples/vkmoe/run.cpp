#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/paging.h"
#include "samples/vkmoe/pictures.h"
#include "samples/vkmoe/routes.h"
#include "samples/vkmoe/tensor_file.h"

namespace vkmoe::program {
namespace {

Json introspectionJson(const Stack& stack, const StackResult& result) {
    if (!stack.residual()) return introspectionToJson(result.layers.front().introspection);
    Json layers = Json::array();
    for (const auto& layer : result.layers) layers.push_back(introspectionToJson(layer.introspection));
    return {{"layers", layers}};
}

void printSummary(const Context& context, const std::string& device, const Stack& stack, const StackResult& result) {
    if (context.json) {
        print({{"device", device},
               {"precision", context.precision},
               {"tokens", result.tokens},
               {"seconds", result.seconds},
               {"submits", result.submits},
               {"host_waits", result.host_waits},
               {"pages", pagesJson(stack, result)},
               {"introspection", introspectionJson(stack, result)}});
        return;
    }
    fmt::print("{} tokens on {} ({}) in {:.1f} ms: {:.0f} tokens/s, {} submits, {} host waits\n", result.tokens, device,
               context.precision, result.seconds * 1e3, result.tokens == 0 ? 0 : double(result.tokens) / result.seconds,
               result.submits, result.host_waits);
    if (result.paging) fmt::print("{}", pagingPicture(*result.paging));
    for (size_t i = 0; i < result.layers.size(); ++i) {
        if (stack.residual()) fmt::print("layer {}\n", i);
        fmt::print("{}", loadPicture(result.layers[i].introspection));
    }
}

// Before any work: the results have places to go, and not the same one.
Result<void> checkTargets(const RunOptions& options) {
    for (const std::string& path : {options.output, options.routes, options.paging.trace}) {
        if (path.empty()) continue;
        std::error_code error;
        auto folder = std::filesystem::path(path).parent_path();
        if (!folder.empty() && !std::filesystem::is_directory(folder, error))
            return Error{ErrorCode::io, fmt::format("{}: {} is no folder", path, folder.string())};
        if (std::filesystem::is_directory(path, error))
            return Error{ErrorCode::io, fmt::format("{}: is a folder", path)};
    }
    if (options.routes.empty()) return {};
    std::error_code error;
    auto where = [&](const std::string& path) { return std::filesystem::weakly_canonical(path, error); };
    if (where(options.output) == where(options.routes) ||
        std::filesystem::equivalent(options.output, options.routes, error))
        return Error{ErrorCode::bad_input,
                     fmt::format("{}: output and routes cannot go to the same file", options.output)};
    return {};
}

// Both files or neither.
Result<void> writeResults(const RunOptions& options, const Stack& stack, const StackResult& result) {
    bool is_new = std::filesystem::symlink_status(options.output).type() == std::filesystem::file_type::not_found;
    VKMOE_CHECK(writeTokens(options.output, result.output));
    if (options.routes.empty()) return {};
    auto written = writeText(options.routes, routesToJson(stack, result).dump() + "\n");
    if (!written && is_new) std::remove(options.output.c_str());
    return written;
}

// A sentence about the input's values names its file.
Error aboutInput(const RunOptions& options, Error error) {
    if (error.detail.starts_with("the input")) error.detail = options.input + ": " + error.detail;
    return error;
}

Result<Stack> openStack(Engine& engine, const RunOptions& options, bool compat) {
    if (!options.paging.wanted()) return Stack::open(engine, options.file, compat);
    Progress progress("reading experts");
    PagingOptions paging = options.paging.options();
    paging.progress = [&](uint64_t done, uint64_t all) { return progress.show(done, all), true; };
    return Stack::open(engine, options.file, paging, compat);
}

Result<void> runModel(const Context& context, const RunOptions& options, Engine& engine) {
    VKMOE_TRY(stack, openStack(engine, options, context.compat));
    for (const auto& warning : stack.warnings()) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    VKMOE_TRY(tokens, readTokens(options.input, stack.modelDim()));
    ForwardOptions forward{.precision = context.chosenPrecision()};
    forward.training = options.training;
    forward.pool_routes = options.pool_routes;
    forward.max_batch = options.batch;
    std::vector<Routes> forced;
    if (!options.routes_in.empty()) {
        VKMOE_TRY(routes,
                  routesFromFile(options.routes_in, stack, tokens.size() / stack.modelDim(), options.pool_routes));
        forced = std::move(routes);
    }
    std::vector<const Routes*> pointers;
    for (const Routes& routes : forced) pointers.push_back(&routes);
    Progress progress("running");
    ResidencyMap map(options.paging.map ? stack.pager() : nullptr);
    forward.progress = [&](uint64_t done, uint64_t all) { return progress.show(done, all), map.show(), true; };
    auto result = stack.forward(tokens, forward, pointers);
    if (!result) return aboutInput(options, std::move(result).error());
    VKMOE_CHECK(writeResults(options, stack, *result));
    if (!options.paging.trace.empty())
        VKMOE_CHECK(writeTrace(options.paging.trace, *stack.pager(), *result->paging, result->seconds));
    printSummary(context, engine.device().info().name, stack, *result);
    return {};
}

}  // namespace

int run(const Context& context, const RunOptions& options) {
    if (auto targets = checkTargets(options); !targets) return fail(targets.error());
    return context.runOnDevice([&](Engine& engine) { return runModel(context, options, engine); });
}

}  // namespace vkmoe::program
