#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/paging.h"
#include "samples/vkmoe/pictures.h"
#include "samples/vkmoe/routes.h"
#include "samples/vkmoe/routes_file.h"
#include "samples/vkmoe/targets.h"
#include "samples/vkmoe/tensor_file.h"

namespace vkmoe::program {
namespace {

Json introspectionJson(const Stack& stack, const StackResult& result) {
    if (!stack.residual()) return introspectionToJson(result.layers.front().introspection);
    Json layers = Json::array();
    for (const auto& layer : result.layers) layers.push_back(introspectionToJson(layer.introspection));
    return {{"layers", layers}};
}

void printSummary(const Context& context, Device& on, const Stack& stack, const StackResult& result) {
    const std::string& device = on.info().name;
    if (context.json) {
        print({{"device", device},
               {"precision", context.precision},
               {"tokens", result.tokens},
               {"seconds", result.seconds},
               {"submits", result.submits},
               {"host_waits", result.host_waits},
               {"pages", pagesJson(stack, result)},
               {"memory", memoryJson(on)},
               {"introspection", introspectionJson(stack, result)}});
        return;
    }
    fmt::print("{} tokens on {} ({}) in {:.1f} ms: {:.0f} tokens/s, {} submits, {} host waits\n", result.tokens, device,
               context.precision, result.seconds * 1e3, result.tokens == 0 ? 0 : double(result.tokens) / result.seconds,
               result.submits, result.host_waits);
    if (result.paging) fmt::print("{}{}", pagingPicture(*result.paging), memoryLine(on));
    for (size_t i = 0; i < result.layers.size(); ++i) {
        if (stack.residual()) fmt::print("layer {}\n", i);
        fmt::print("{}", loadPicture(result.layers[i].introspection));
    }
}

// Before any work: each result has a place to go, which is no other's and none that is read.
Result<void> checkResultFiles(const RunOptions& options) {
    return checkEachTarget({options.output, options.routes, options.paging.trace},
                           {options.file, options.input, options.routes_in});
}

// All files or none.
Result<void> writeResults(const RunOptions& options, const Stack& stack, const StackResult& result) {
    std::vector<std::string> made;
    auto write = [&](const std::string& path, const auto& writing) -> Result<void> {
        if (path.empty()) return {};
        std::error_code unknown;
        if (std::filesystem::symlink_status(path, unknown).type() == std::filesystem::file_type::not_found)
            made.push_back(path);
        Result<void> written = writing();
        if (!written)
            for (const std::string& file : made) std::remove(file.c_str());
        return written;
    };
    VKMOE_CHECK(write(options.output, [&] { return writeTokens(options.output, result.output); }));
    VKMOE_CHECK(
        write(options.routes, [&] { return writeText(options.routes, routesToJson(stack, result).dump() + "\n"); }));
    return write(options.paging.trace,
                 [&] { return writeTrace(options.paging.trace, *stack.pager(), *result.paging, result.seconds); });
}

// A sentence about values names the file that they are of: the input's, or the model's.
Error withFile(const RunOptions& options, Error error) {
    if (error.detail.starts_with("the input"))
        error.detail = options.input + ": " + error.detail;
    else if (error.code == ErrorCode::bad_input && error.detail.find(options.file) == std::string::npos)
        error.detail = options.file + ": " + error.detail;
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
    ResidencyMap map([&] { return options.paging.map ? stack.pager() : nullptr; });
    forward.progress = [&](uint64_t done, uint64_t all) { return progress.show(done, all), map.show(), true; };
    auto result = stack.forward(tokens, forward, pointers);
    if (!result) return withFile(options, std::move(result).error());
    VKMOE_CHECK(writeResults(options, stack, *result));
    printSummary(context, engine.device(), stack, *result);
    return {};
}

}  // namespace

int run(const Context& context, const RunOptions& options) {
    if (auto targets = checkResultFiles(options); !targets) return fail(targets.error());
    return context.runOnDevice([&](Engine& engine) { return runModel(context, options, engine); });
}

}  // namespace vkmoe::program
