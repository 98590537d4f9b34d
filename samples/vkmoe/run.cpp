#include <fmt/format.h>

#include <algorithm>

#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/pictures.h"
#include "samples/vkmoe/routes.h"
#include "samples/vkmoe/tensor_file.h"

namespace vkmoe::program {
namespace {

uint64_t touchedExperts(const Introspection& introspection) {
    return uint64_t(std::count_if(introspection.experts.begin(), introspection.experts.end(), [](const auto& e) { return e.tokens > 0; }));
}

// Every page is resident: uses are hits of tier 1.
Json pagesJson(const Layer& layer, const ForwardResult& result) {
    return {{"hits", {{"tier1", touchedExperts(result.introspection)}, {"tier2", 0}, {"tier3", 0}}},
            {"bytes", layer.pageBytes() * layer.description().experts}, {"evictions", 0}, {"cpu_computed", 0}};
}

void printSummary(const Context& context, const Engine&, const std::string& device, const Layer& layer, const ForwardResult& result) {
    if (context.json) {
        print({{"device", device}, {"precision", context.precision}, {"tokens", result.tokens}, {"seconds", result.seconds},
               {"submits", result.submits}, {"host_waits", result.host_waits}, {"pages", pagesJson(layer, result)},
               {"introspection", introspectionToJson(result.introspection)}});
        return;
    }
    fmt::print("{} tokens on {} ({}) in {:.1f} ms: {:.0f} tokens/s, {} submits, {} host waits\n", result.tokens, device, context.precision,
               result.seconds * 1e3, result.tokens == 0 ? 0 : double(result.tokens) / result.seconds, result.submits, result.host_waits);
    fmt::print("{}", loadPicture(result.introspection));
}

Result<void> writeResults(const RunOptions& options, const ForwardResult& result) {
    if (!options.routes.empty()) VKMOE_CHECK(writeText(options.routes, routesToJson(result.routes).dump() + "\n"));
    return writeTokens(options.output, result.output);
}

}  // namespace

int run(const Context& context, const RunOptions& options) {
    auto engine = context.openEngine();
    if (!engine) return fail(engine.error());
    auto layer = Layer::open(**engine, options.file, context.compat);
    if (!layer) return fail(options.file, layer.error());
    for (const auto& warning : layer->warnings()) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    auto tokens = readTokens(options.input, layer->description().model_dim);
    if (!tokens) return fail(tokens.error());

    ForwardOptions forward{.precision = context.chosenPrecision()};
    Routes forced;
    if (!options.routes_in.empty()) {
        auto routes = routesFromFile(options.routes_in, layer->description(), tokens->size() / layer->description().model_dim);
        if (!routes) return fail(routes.error());
        forced = std::move(*routes);
        forward.forced_routes = &forced;
    }
    Progress progress("running");
    forward.progress = [&](uint64_t done, uint64_t all) {
        progress.show(done, all);
        return true;
    };
    auto result = layer->forward(*tokens, forward);
    if (!result) return fail(options.input, result.error());
    auto written = writeResults(options, *result);
    if (!written) return fail(written.error());
    printSummary(context, **engine, (*engine)->device().info().name, *layer, *result);
    return kOk;
}

}  // namespace vkmoe::program
